#include <algorithm>
#include <climits>
#include <ctime>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/handshake_task.h"
#include "shim/session/internal.h"
#include "shim/session/socket_facts.h"

namespace inlay::shim {
namespace {

// More than a ClientHello and a certificate flight, and no more than half the smallest default
// receive buffer: a greater value would make the kernel grow the buffer (tcp_set_rcvlowat).
constexpr int kHidingLowWater = 32768;

// What must at least be in the kernel for `wanted` bytes of the program's to be there: what is left of
// the record that has begun, and one record more.
std::int64_t fewest_bytes(Slot &slot, std::int64_t wanted) noexcept {
  constexpr auto kOverhead = static_cast<std::int64_t>(tls::kRecordOverhead);
  const Receiving &rx = slot.receiving;
  const auto head = static_cast<std::int64_t>(rx.head_length);
  if (rx.head_length < tls::kHeaderLength) return wanted + kOverhead - head;
  auto header = tls::parse_header({chunk_at(slot, rx.head_chunk).bytes, tls::kHeaderLength});
  if (!header) return 1;
  auto record = static_cast<std::int64_t>(tls::kHeaderLength + header->length);
  std::int64_t further = wanted - (record - kOverhead - rx.taken);
  return record - head + (further > 0 ? further + kOverhead : 0);
}

}  // namespace

void hide_readiness(Slot &slot, int fd) noexcept {
  int low_water = kHidingLowWater;
  if (kernel::set_option(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water)) != 0) return;
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  Local &mine = local(slot);
  mine.acceptor = current_thread_id();
  mine.accepted_cpu_ns = std::int64_t{used.tv_sec} * 1'000'000'000 + used.tv_nsec;
  slot.hides_readiness.store(true, std::memory_order_release);
  notify_helper(slot);
}

void show_readiness(Slot &slot, int fd) noexcept {
  if (!slot.hides_readiness.exchange(false, std::memory_order_acq_rel)) return;
  refire_readable(slot, fd);
  notify_helper(slot);  // it waits by epoll again
}

void quiet_readiness(Slot &slot, int fd) noexcept {
  if (slot.state.load(std::memory_order_acquire) != State::handshaking ||
      slot.hides_readiness.load(std::memory_order_acquire) ||
      slot.quieted.load(std::memory_order_acquire) ||
      slot.owner.load(std::memory_order_acquire) != this_process()) {
    return;
  }
  int low_water = kHidingLowWater;
  if (kernel::set_option(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water)) != 0) return;
  // In this order: whoever clears the flag undoes the option, and the helper looks at it once more.
  slot.quieted.store(true, std::memory_order_seq_cst);
  notify_helper(slot);
  // The handshake may have ended before the option was set; if it ends later, its end undoes it.
  if (slot.state.load(std::memory_order_seq_cst) != State::handshaking) unquiet_readiness(slot, fd);
}

void unquiet_readiness(Slot &slot, int fd) noexcept {
  if (slot.quieted.exchange(false, std::memory_order_acq_rel)) refire_readable(slot, fd);
}

void apply_low_water(Slot &slot, int fd) noexcept {
  bool hidden = slot.hides_readiness.load(std::memory_order_acquire) ||
                slot.quieted.load(std::memory_order_acquire);
  std::int64_t needed = hidden ? kHidingLowWater : 1;
  std::int64_t wanted = slot.receive_low_water.load(std::memory_order_relaxed);
  if (wanted > 1 && slot.state.load(std::memory_order_acquire) == State::established) {
    needed = fewest_bytes(slot, wanted);
  }
  int low_water = static_cast<int>(std::clamp<std::int64_t>(needed, 1, INT_MAX));
  if (kernel::set_option(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water)) == 0) return;
  // A BPF program of the control group may say no: whoever waits would never see what comes.
  if (int_option(fd, SOL_SOCKET, SO_RCVLOWAT, INT_MAX) > low_water) {
    fail_closed(slot, fd, policy::Reason::out_of_resources, "the kernel refuses SO_RCVLOWAT");
  }
}

}  // namespace inlay::shim
