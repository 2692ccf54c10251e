// What is there to read, without reading it.
#include <sys/mman.h>

#include <algorithm>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/session/receive.h"
#include "shim/session/record_reader.h"

namespace inlay::shim {
namespace {

// Runs a reader that consumes only control records: what is left at the front is data, opened into
// the cache. False when there is none. receive_lock held.
bool find_data(Slot &slot, int fd, Scratch &scratch, Outcome *outcome = nullptr) noexcept {
  // A sink that discards: the plaintext goes nowhere.
  iovec nowhere{nullptr, 1};
  Sink sink({&nowhere, 1}, true);
  Outcome found = RecordReader(slot, fd, scratch, sink, true).run();
  if (outcome != nullptr) *outcome = found;
  return sink.delivered() > 0;
}

// Application bytes of the whole records in `queued`, by their headers; one more where an
// incomplete record follows: a program that stops at the answer would leave that record's head in
// the kernel, where it can fill a receive window that its rest then never gets through.
std::size_t count_records(std::span<const std::uint8_t> queued) noexcept {
  std::size_t total = 0;
  while (queued.size() >= tls::kHeaderLength) {
    auto header = tls::parse_header(queued.first(tls::kHeaderLength));
    if (!header || queued.size() < tls::kHeaderLength + header->length) break;
    std::size_t record = tls::kHeaderLength + header->length;
    total += record - std::min(record, tls::kRecordOverhead);
    queued = queued.subspan(record);
  }
  return queued.empty() ? total : total + 1;
}

}  // namespace

int readable_bytes(Slot &slot, int fd) noexcept {
  State state = slot.state.load(std::memory_order_acquire);
  if (state != State::established) return state == State::failed ? -1 : 0;
  BorrowedScratch scratch;
  if (!scratch) return 0;
  Locked guard(slot.receive_lock);
  if (guard.reentered() || guard.owner_gone()) return 0;
  if (!find_data(slot, fd, *scratch.operator->())) return 0;
  const Receiving &rx = slot.receiving;
  auto header = tls::parse_header({chunk_at(slot, rx.head_chunk).bytes, tls::kHeaderLength});
  std::size_t total = local(slot).opened_length - rx.taken;
  if (!header) return static_cast<int>(total);
  std::size_t rest = tls::kHeaderLength + header->length - rx.head_length;

  // Event loops take bytes beyond the answer for new arrivals that come with an edge of their own
  // (nginx does): all whole records must be counted, however long the queue.
  constexpr std::size_t kQueueLimit = 64u << 20;
  long queued = kernel::receive(fd, nullptr, kQueueLimit, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  if (queued <= static_cast<long>(rest)) return static_cast<int>(total);
  auto length = static_cast<std::size_t>(queued);
  std::uint8_t *window = scratch->bytes;
  if (length > kScratchSize) {
    long mapped = kernel::call(SYS_mmap, 0, queued, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped < 0 && mapped > -4096) {
      length = kScratchSize;
    } else {
      window = reinterpret_cast<std::uint8_t *>(mapped);
    }
  }
  long got = kernel::receive(fd, window, length, MSG_PEEK | MSG_DONTWAIT);
  if (got > static_cast<long>(rest)) {
    total += count_records({window + rest, static_cast<std::size_t>(got) - rest});
  }
  if (window != scratch->bytes) kernel::call(SYS_munmap, kernel::word(window), queued);
  return static_cast<int>(std::min<std::size_t>(total, INT32_MAX));
}

bool swallow_control_records(Slot &slot, int fd) noexcept {
  Outcome outcome;
  bool data;
  {
    BorrowedScratch scratch;
    Locked guard(slot.receive_lock);
    if (!scratch || guard.reentered() || guard.owner_gone()) return false;
    data = find_data(slot, fd, *scratch.operator->(), &outcome);
  }
  if (outcome.reason != policy::Reason::refused_by_peer) return data;
  fail_closed(slot, fd, outcome.reason, outcome.detail);
  return true;
}

}  // namespace inlay::shim
