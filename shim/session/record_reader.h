// Opens a session's records into a program's buffers. The rule: never hold a complete record's
// plaintext while the kernel's queue is empty, so that poll, select and epoll tell the program the
// truth without being hooked.
//
//  - A call with room for n bytes reads at most n + 22 bytes of ciphertext: whatever whole records
//    are in them fit the caller. The head of an incomplete record stays in a chunk of the arena;
//    its rest must still arrive and raises readiness.
//  - A record whose plaintext exceeds the room stays in the kernel: its rest is peeked, opened into
//    a cache, and committed (MSG_TRUNC) once its last byte is delivered.
//  - The buffer is filled while whole records are there: edge-triggered programs read a short count
//    as "drained".
#pragma once

#include "shim/arena/slot.h"
#include "shim/session/internal.h"
#include "shim/session/local.h"
#include "shim/session/sink.h"

namespace inlay::shim {

enum class Fill : std::uint8_t {
  filled,   // no room left, or a peek has what it wants
  drained,  // the kernel has no whole record
  end,      // close_notify, or a FIN that the rule takes for one
  broken,   // fail the session with `reason`
  error,    // the kernel's `error`
};

struct Outcome {
  Fill fill = Fill::drained;
  policy::Reason reason = policy::Reason::none;
  const char *detail = "";
  const tls::Alert *alert = nullptr;
  int error = 0;
};

// Reads a session's records on behalf of one call. receive_lock is held throughout.
class RecordReader {
 public:
  RecordReader(Slot &slot, int fd, Scratch &scratch, Sink &sink, bool peek) noexcept
      : slot_(slot),
        rx_(slot.receiving),
        local_(local(slot)),
        fd_(fd),
        scratch_(scratch),
        sink_(sink),
        peek_(peek) {}

  Outcome run() noexcept;

 private:
  // The record whose head is known needs the kernel to keep it: its plaintext exceeds the room, or
  // part of it is delivered, or the program only peeks.
  bool must_stay(std::size_t record) const noexcept {
    return peek_ || rx_.taken > 0 || record - std::min(record, tls::kRecordOverhead) > sink_.room();
  }
  bool make_cipher() noexcept;
  // A handshake message that goes on in the next record: nothing else may come between (§5.1).
  bool interrupts_message(tls::ContentType type) const noexcept {
    return type != tls::ContentType::handshake && rx_.post_handshake.mid_message();
  }
  // Length of the record the head begins, 0 while fewer than 5 bytes are known.
  bool head_record(std::size_t &record, Outcome &outcome) noexcept;
  Outcome fill_head(std::size_t wanted) noexcept;
  Outcome read_whole_records() noexcept;
  Outcome read_staying_record(std::size_t record) noexcept;
  Outcome gather() noexcept;
  Outcome peek_further(std::size_t first_record) noexcept;
  bool open_staying(std::size_t record, Outcome &outcome) noexcept;
  bool store_head(const std::uint8_t *bytes, std::size_t length) noexcept;
  void drop_head() noexcept;
  Outcome end_of_stream() noexcept;
  Outcome control(tls::ContentType type, std::span<const std::uint8_t> plaintext) noexcept;
  std::uint8_t *head() noexcept { return chunk_at(slot_, rx_.head_chunk).bytes; }
  bool progress() const noexcept { return sink_.passed() > 0; }

  Slot &slot_;
  Receiving &rx_;
  Local &local_;
  int fd_;
  Scratch &scratch_;
  Sink &sink_;
  bool peek_;
  bool short_read_ = false;  // the kernel's queue was emptied
};

}  // namespace inlay::shim
