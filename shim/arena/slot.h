// One managed connection's shared state. Plain data in a MAP_SHARED arena: any process that shares
// the connection continues from it. What only this process knows (cipher contexts, the handshake) is
// in session/local.h.
//
// States:
//
//   connecting --TCP up--> handshaking --verified, authorised--> established --last close--> (free)
//        |                      |                                    |
//        +---TCP failed: free   +------------> failed <--------------+
//
// `state` is a futex: whoever waits for the end of a handshake sleeps on it. Only the owner process
// moves connecting and handshaking on; anybody may move to failed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "identity/verify.h"
#include "policy/log_record.h"
#include "policy/policy.h"
#include "policy/reason.h"
#include "shim/arena/lock.h"
#include "shim/arena/participant.h"
#include "tls/post_handshake.h"
#include "tls/record.h"

namespace inlay::shim {

struct Local;

enum class State : std::uint32_t {
  free = 0,
  connecting,   // TCP is not up yet
  waiting,      // inbound, TCP is up, nobody has touched it: the handshake has no owner yet
  handshaking,
  established,
  failed,
};

inline constexpr std::uint32_t kNoChunk = 0xffffffffu;
inline constexpr unsigned kHolders = 8;

// A process that has descriptors of the connection.
struct Holder {
  std::atomic<Participant> who;  // 0: the place is free
  std::atomic<std::int32_t> descriptors;
};

// A chain of chunks in the arena's pool: bytes waiting to be sent, oldest first.
struct Queue {
  std::uint32_t first = kNoChunk;
  std::uint32_t last = kNoChunk;
  std::uint64_t length = 0;  // bytes in all chunks
};

// Guarded by Slot::receive_lock.
struct Receiving {
  tls::TrafficState traffic;
  tls::PostHandshake post_handshake;
  std::uint32_t head_chunk = kNoChunk;  // the incomplete record whose rest is still to arrive
  std::uint32_t head_length = 0;
  std::uint32_t taken = 0;              // plaintext of the record in the kernel already delivered
  bool close_notify = false;            // the peer's end of data: reads give 0
  bool shut = false;                    // shutdown(SHUT_RD)
  bool from_server = false;             // the peer is TLS's server
  bool gathers = false;                 // the part of a record behind what is read comes along (FIONREAD)
};

// Guarded by Slot::send_lock.
struct Sending {
  tls::TrafficState traffic;
  Queue early;  // plaintext written before the session was established
  Queue tail;   // sealed bytes the kernel has not taken yet
  bool shut_requested = false;      // shutdown(SHUT_WR): close_notify and FIN once early and tail are out
  bool close_notify_sealed = false;
  bool fin_sent = false;
  bool corked = false;
  std::atomic<Participant> flusher{0};  // thread that sends the tail outside the lock; a futex
};

struct alignas(64) Slot {
  std::atomic<std::uint64_t> cookie;      // SO_COOKIE; 0 when free
  std::atomic<std::uint32_t> generation;  // of the slot's use: grows with each allocation
  std::atomic<State> state;
  std::atomic<policy::Reason> reason;     // why it failed
  std::atomic<Participant> owner;         // whose helper does the handshake; 0 = nobody yet
  std::atomic<std::uint32_t> waiters;     // threads asleep on `state`
  std::atomic<bool> error_taken;          // ECONNRESET was reported once, as the kernel does
  std::atomic<bool> key_update_due;       // the peer asked for one; the next writer sends it
  std::atomic<bool> output_pending;       // early or tail is not empty: looked at before locking
  std::atomic<bool> hides_readiness;      // SO_RCVLOWAT keeps handshake bytes from the program's select
  std::atomic<bool> quieted;              // the same for a program that does not block, see hide.cc
  std::atomic<bool> writer_starved;       // a send() got EAGAIN for early data: re-fire EPOLLOUT
  policy::Direction direction;
  policy::BareFin bare_fin;
  bool met_client;                        // outbound, and the peer connected to it as well: both rules hold
  std::uint32_t index;                    // of this slot in its arena
  std::uint32_t next_free;
  std::uint32_t rule;
  std::atomic<std::uint64_t> bytes_in;    // application bytes
  std::atomic<std::uint64_t> bytes_out;
  std::atomic<std::int32_t> receive_low_water;  // the program's SO_RCVLOWAT, virtualised
  std::atomic<std::int32_t> peek_offset;        // and its SO_PEEK_OFF
  policy::Endpoint remote;                // the kernel forgets it when the connection ends
  identity::PathRecord peer_path;         // what its identity rested on; all zero: not known
  char peer_id[256];                      // NUL-terminated, truncated: for the log and judging again

  // Holders that are on their way: children that were forked and have not yet put themselves among the
  // holders, descriptors in messages. A process that closes at once must not take itself for the last.
  // `unborn_since_ns` (CLOCK_MONOTONIC) bounds it, for forks that failed, children killed before they
  // ran and messages nobody received.
  std::atomic<std::int32_t> unborn;
  std::atomic<std::int64_t> unborn_since_ns;

  SharedLock life_lock;  // descriptors and the handshake's use of them: close against helper
  Holder holders[kHolders];

  alignas(64) SharedLock receive_lock;
  Receiving receiving;
  alignas(64) SharedLock send_lock;
  Sending sending;
};

// Zeroes part of a slot word by word: who holds a pointer from before may look at its atomics
// meanwhile.
inline void clear_shared(void *from, std::size_t length) noexcept {
  auto *words = static_cast<std::uint64_t *>(from);
  for (std::size_t i = 0; i < length / sizeof *words; ++i) {
    std::atomic_ref(words[i]).store(0, std::memory_order_relaxed);
  }
}
static_assert(alignof(Slot) >= 8 && sizeof(Slot) % 8 == 0 && sizeof(SharedLock) % 8 == 0);

// A slot's next use begins. A helper that comes late, for its last one, finds no cookie and goes.
void begin_use(Slot &slot, Local &mine, std::uint64_t cookie, State state) noexcept;
// Its use ends: keys and bytes go. Another thread may be at work on a record still; with the lock the next
// time it finds that there is nothing for it. False when a signal's handler interrupted this thread at such
// work: it will go on.
bool end_use(Slot &slot) noexcept;

}  // namespace inlay::shim
