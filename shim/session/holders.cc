#include "shim/session/holders.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/session/helper.h"

namespace inlay::shim {
namespace {

// How long one may be on its way.
constexpr std::int64_t kUnbornNs = 60'000'000'000;

// A dead process holds nothing; a zombie is dead too.
bool holds(std::uint32_t pid) noexcept {
  pid &= ~kSpawning;
  if (kernel::call(SYS_kill, static_cast<long>(pid), 0) == -ESRCH) return false;
  if (boot::sandboxed()) return true;  // opening a file may be the end of the process
  char path[32];
  char *end = path + sizeof(path) - 1;
  *end = 0;
  constexpr char kSuffix[] = "/stat";
  end -= sizeof(kSuffix) - 1;
  std::memcpy(end, kSuffix, sizeof(kSuffix) - 1);
  for (std::uint32_t rest = pid; rest != 0; rest /= 10) *--end = static_cast<char>('0' + rest % 10);
  end -= 6;
  std::memcpy(end, "/proc/", 6);
  long fd = kernel::call(SYS_openat, AT_FDCWD, kernel::word(end), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  char stat[512];
  long got = kernel::call(SYS_read, fd, kernel::word(stat), sizeof(stat) - 1);
  kernel::close(static_cast<int>(fd));
  if (got <= 0) return true;
  // "pid (name) S ...": the name may hold anything, the state follows the last parenthesis.
  for (long i = got - 3; i > 0; --i) {
    if (stat[i] == ')') return stat[i + 2] != 'Z' && stat[i + 2] != 'X';
  }
  return true;
}

}  // namespace

Holder *find_holder(Slot &slot, std::uint32_t pid) noexcept {
  for (Holder &holder : slot.holders) {
    if (holder.pid.load(std::memory_order_acquire) == pid) return &holder;
  }
  return nullptr;
}

void add_descriptor(Slot &slot, std::uint32_t pid) noexcept {
  if (Holder *holder = find_holder(slot, pid)) {
    holder->descriptors.fetch_add(1, std::memory_order_acq_rel);
    return;
  }
  for (Holder &holder : slot.holders) {
    std::uint32_t before = holder.pid.load(std::memory_order_acquire);
    if (before != 0 && holds(before)) continue;
    if (holder.pid.compare_exchange_strong(before, pid, std::memory_order_acq_rel)) {
      holder.descriptors.store(1, std::memory_order_release);
      return;
    }
  }
}

void expect_holder(Slot &slot) noexcept {
  slot.unborn_since_ns.store(monotonic_ns(), std::memory_order_relaxed);
  slot.unborn.fetch_add(1, std::memory_order_acq_rel);
}

void expected_holder_came(Slot &slot) noexcept {
  std::int32_t expected = slot.unborn.load(std::memory_order_relaxed);
  while (expected > 0 && !slot.unborn.compare_exchange_weak(expected, expected - 1)) {
  }
}

bool held_elsewhere(Slot &slot) noexcept {
  if (slot.unborn.load(std::memory_order_acquire) > 0 &&
      monotonic_ns() - slot.unborn_since_ns.load(std::memory_order_relaxed) < kUnbornNs) {
    return true;
  }
  std::uint32_t me = process_id();
  for (Holder &holder : slot.holders) {
    std::uint32_t pid = holder.pid.load(std::memory_order_acquire);
    if (pid != 0 && pid != me && holder.descriptors.load(std::memory_order_acquire) > 0 &&
        holds(pid)) {
      return true;
    }
  }
  return false;
}

void release_holder(Slot &slot, std::uint32_t pid) noexcept {
  if (Holder *holder = find_holder(slot, pid)) {
    holder->descriptors.store(0, std::memory_order_release);
    holder->pid.store(0, std::memory_order_release);
  }
}

}  // namespace inlay::shim
