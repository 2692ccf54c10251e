// What only this process knows of a session. Lives in a mapping the kernel wipes in forked children
// (MADV_WIPEONFORK): a child starts with nothing cached and makes its own. All-zero is the empty
// value, so descriptor numbers are stored plus one.
#pragma once

#include <atomic>
#include <cstdint>

#include "shim/arena/slot.h"

namespace inlay::shim {

struct Task;

inline constexpr unsigned kWatches = 4;

struct Local {
  // Guarded by the slot's receive_lock.
  tls::RecordCipher *open = nullptr;
  std::uint8_t *opened = nullptr;  // plaintext of the record that is still in the kernel
  std::uint32_t opened_length = 0;
  std::uint16_t opened_generation = 0;
  bool opened_valid = false;
  tls::ContentType opened_type = tls::ContentType::invalid;
  std::uint64_t opened_sequence = 0;
  // Guarded by the slot's send_lock.
  tls::RecordCipher *seal = nullptr;
  // The blocking send of the tail that a thread of this process is in (flush.cc).
  const std::uintptr_t *flush_mark = nullptr;  // on its stack: its own address until it returns
  std::uint64_t flush_written = 0;             // to the socket, before it
  std::uint64_t flush_length = 0;              // what it sends

  // Guarded by the slot's life_lock; what is atomic is looked at without it, where a moment too
  // early or late makes no difference.
  std::atomic<Task *> task{nullptr};                    // the helper's work on this session
  std::atomic<const policy::Policy *> policy{nullptr};  // what decided, for judging the peer
  // What its peer's identity was judged by last (policy_watch.cc); 0 = nothing.
  std::uint32_t trust = 0;
  std::atomic<std::uint32_t> descriptor{0};  // a number of this process that names it, plus one
  std::uint32_t acceptor = 0;                // thread of this process that accepted it; 0 = another's
  std::int64_t accepted_cpu_ns = 0;          // that thread's processor time then
  // givings() when this process accepted it, plus one (untouched.h).
  std::uint32_t accepted_at = 0;
  std::atomic<bool> hidden{false};  // `descriptor` is inlay's own: the program closed all of its
  // The number a call is still under way on, plus one (under_way.h).
  std::atomic<std::uint32_t> closed{0};
  std::int64_t closed_ns = 0;
  std::int64_t closed_computed_ns = 0;  // the caller's processor time then
  bool bound = false;                   // the program chose the port it connected from
  bool inherited = false;               // over exec: the names it was reached by are not known here
  std::int32_t descriptors_before = 0;  // while taking over: as the image before counted them

  // Epoll sets it may be registered in, as watches.cc keeps them; no lock.
  std::atomic<std::uint32_t> watches[kWatches] = {};
  std::atomic<Slot *> next_in_inbox{nullptr};
  std::atomic<bool> in_inbox{false};
  // Calls that have slept on it and not returned yet, or a few more; and the last one's thread.
  std::atomic<std::uint32_t> calls{0};
  std::atomic<std::uint32_t> caller{0};
  std::atomic<bool> expects_wait{false};  // the last receive slept: look for data by sleeping first

  Local() = default;
  Local(const Local &) = delete;
  // Back to the empty value, but for the inbox's link; frees nothing.
  void reset() noexcept;
};

// Frees what the process cached for reading, with the receive_lock held; for writing, with the
// send_lock.
void drop_opening(Local &mine) noexcept;
void drop_sealing(Local &mine) noexcept;
// Both, when nobody is at work with it any more: another thread may be, in a call that does not
// sleep (under_way.h). In a signal's handler that interrupted such work it stays.
void drop_local(Slot &slot) noexcept;

}  // namespace inlay::shim
