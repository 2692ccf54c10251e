// What is there to read, without reading it.
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

// What stood at the front instead of data is consumed, and the kernel tells an error once: what it
// means for the session must not be lost with it. No lock may be held.
void note_end(Slot &slot, int fd, const Outcome &outcome) noexcept {
  if (outcome.fill == Fill::broken) {
    fail_closed(slot, fd, outcome.reason, outcome.detail, outcome.alert);
  } else if (outcome.fill == Fill::error) {
    slot.reason.store(policy::Reason::reset_by_peer, std::memory_order_release);
  }
}

// Application bytes of the whole records in `queued`, by their headers; those that may be an alert
// or a KeyUpdate are opened. Part of a record behind them comes along with the last of them that is
// read.
std::size_t count_records(Slot &slot, std::span<const std::uint8_t> queued,
                          std::uint8_t *plain) noexcept {
  constexpr std::size_t kLongestControl = 5;  // KeyUpdate (RFC 8446 §4.6.3)
  std::uint64_t sequence = slot.receiving.traffic.sequence;
  bool known_key = true;
  std::size_t total = 0;
  while (queued.size() >= tls::kHeaderLength) {
    auto header = tls::parse_header(queued.first(tls::kHeaderLength));
    if (!header || queued.size() < tls::kHeaderLength + header->length) break;
    std::size_t record = tls::kHeaderLength + header->length;
    std::size_t length = record - std::min(record, tls::kRecordOverhead);
    ++sequence;
    if (length <= kLongestControl && known_key) {
      auto opened = local(slot).open->open(sequence, queued.first(record), plain);
      // What cannot be opened is an error to whoever reads it; what follows a KeyUpdate has another
      // key.
      known_key = opened && opened->type != tls::ContentType::handshake;
      if (opened && opened->type != tls::ContentType::application_data) length = 0;
    }
    total += length;
    queued = queued.subspan(record);
  }
  slot.receiving.gathers = !queued.empty();
  return total;
}

}  // namespace

long queued_bytes(int fd) noexcept {
  constexpr std::size_t kQueueLimit = 64u << 20;
  return kernel::receive(fd, nullptr, kQueueLimit, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
}

int readable_bytes(Slot &slot, int fd) noexcept {
  State state = slot.state.load(std::memory_order_acquire);
  if (state != State::established) return state == State::failed ? -1 : 0;
  BorrowedScratch scratch;
  if (!scratch) return 0;
  Locked guard(slot.receive_lock);
  if (guard.reentered()) return 0;
  if (guard.owner_gone()) {
    guard.unlock();
    poison(slot, fd);
    return -1;
  }
  Outcome outcome;
  if (!find_data(slot, fd, *scratch.operator->(), &outcome)) {
    guard.unlock();
    note_end(slot, fd, outcome);
    return 0;
  }
  const Receiving &rx = slot.receiving;
  auto header = tls::parse_header({chunk_at(slot, rx.head_chunk).bytes, tls::kHeaderLength});
  std::size_t total = local(slot).opened_length - rx.taken;
  if (!header) return static_cast<int>(total);
  std::size_t rest = tls::kHeaderLength + header->length - rx.head_length;

  // Event loops take bytes beyond the answer for new arrivals that come with an edge of their own
  // (nginx does): all whole records must be counted, however long the queue.
  QueueView queue(fd, *scratch.operator->(), SIZE_MAX);
  if (queue.bytes().size() <= rest) return static_cast<int>(total);
  total += count_records(slot, queue.bytes().subspan(rest), scratch->plain);
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
