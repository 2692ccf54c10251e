// What the files of session/ share. Not for hooks.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <sys/socket.h>
#include <sys/uio.h>

#include "policy/log_record.h"
#include "policy/reason.h"
#include "shim/arena/arena.h"
#include "shim/arena/slot.h"
#include "shim/session/local.h"
#include "tls/alert.h"

namespace inlay::shim {

// --- ending badly (fail.cc) ---------------------------------------------------------------------

// Fails the connection closed: alert to the peer when one is given and keys exist, kernel
// shutdown(SHUT_RDWR), waiters woken, one log record. The first reason stays. No lock may be held.
void fail_closed(Slot &slot, int fd, policy::Reason reason, std::string_view detail = {},
                 const tls::Alert *alert = nullptr) noexcept;
// A lock's owner is gone: nothing guarded by it can be trusted any more.
void poison(Slot &slot, int fd) noexcept;
// The helper met a reset: the program is to be told of it, once, by whatever it does next. True for the
// first who asks.
bool takes_reset(Slot &slot) noexcept;
// What a call on a failed session returns: ECONNRESET once, then what TCP gives after a reset.
ssize_t receive_on_failed(Slot &slot) noexcept;
ssize_t send_on_failed(Slot &slot, int flags) noexcept;
// -1 with EPIPE, SIGPIPE raised unless MSG_NOSIGNAL.
ssize_t broken_pipe(int flags) noexcept;
// Moves the state and wakes whoever waits for it.
void set_state(Slot &slot, State state) noexcept;

// --- log (report.cc) ----------------------------------------------------------------------------

// The detail of a refusal for a number beyond the descriptor table (beyond_table()).
inline constexpr char kBeyondTable[] =
    "nothing can be kept of a descriptor's number: above 1048575, or no memory";

// One log record about a session, addresses taken from the kernel. fd may be -1.
void report(const Slot *slot, int fd, policy::Event event, policy::Reason reason,
            std::string_view detail) noexcept;

// As above for a connection that has no slot, and maybe no peer yet.
void report_address(int fd, policy::Event event, policy::Reason reason, std::uint32_t rule,
                    const sockaddr *remote, socklen_t length) noexcept;

// --- no connection yet (unconnected.cc) ----------------------------------------------------------

bool is_unconnected(const Slot &slot) noexcept;
ssize_t send_unconnected(int fd, std::span<const iovec> parts, int flags);
ssize_t receive_unconnected(int fd, std::span<const iovec> parts, int flags);
// A file that inlay has no business with.
ssize_t send_by_kernel(int fd, std::span<const iovec> parts, int flags);
ssize_t receive_by_kernel(int fd, std::span<const iovec> parts, int flags);

// --- hidden readiness (hide.cc) -----------------------------------------------------------------

// A blocking socket, accepted or connected, that nobody reads yet: a select() loop would take handshake
// bytes for data and block in read. SO_RCVLOWAT hides them, from the helper's epoll set too, so that the
// helper polls meanwhile.
void hide_readiness(Slot &slot, int fd) noexcept;
// Undoes it: the handshake is over, or a call is about to block on the socket anyway.
void show_readiness(Slot &slot, int fd) noexcept;

// A call that does not block found handshake bytes instead of data: hides them until the helper has
// taken them, or a level-triggered event loop would spin on them meanwhile, on the processor that the
// handshake needs. Every call on a handshaking session may do so; the helper undoes it.
void quiet_readiness(Slot &slot, int fd) noexcept;
void unquiet_readiness(Slot &slot, int fd) noexcept;

// SO_RCVLOWAT as it must be in the kernel for the program's own: readiness comes no later than it should,
// and earlier where its bytes came in several records. receive_lock held.
void apply_low_water(Slot &slot, int fd) noexcept;

// --- waiting (wait.cc) --------------------------------------------------------------------------

enum class Waited : std::uint8_t {
  changed,     // the state is not what it was
  would_block, // the descriptor is non-blocking, or MSG_DONTWAIT
  timed_out,   // SO_RCVTIMEO or SO_SNDTIMEO: EAGAIN
  interrupted, // EINTR
};
// Blocks while the session is before `established`. `option`: SO_RCVTIMEO or SO_SNDTIMEO.
// A cancellation point, as the call that waits.
Waited wait_for_session(Slot &slot, int fd, int flags, int option);

// What SO_RCVTIMEO or SO_SNDTIMEO leaves a call that began to wait at `since`, in nanoseconds; -1
// without a limit.
std::int64_t time_left(int fd, int option, std::int64_t since) noexcept;

// The TCP attempt of a session in State::connecting came to nothing: the kernel has the reason, once.
bool connecting_failed(int fd) noexcept;
// SO_ERROR, which reading clears.
int take_socket_error(int fd) noexcept;

// --- output (send.cc) ---------------------------------------------------------------------------

enum class Push : std::uint8_t {
  done,     // nothing waits
  pending,  // the kernel takes no more for now
  failed,   // the connection is broken: `error` is the kernel's
};
// Sends what waits: sealed tail first, then early data, then close_notify and FIN where
// shutdown asked for them. send_lock held.
Push push_output(Slot &slot, int fd, int *error) noexcept;
// Bytes that must go: they are sealed. An error that was pending on the socket (a soft one, where
// the program set IP_RECVERR) is not about them, so a second try decides. The kernel's result.
long transmit(int fd, const void *bytes, std::size_t length, int flags) noexcept;
// What transmit()'s error says of the connection.
policy::Reason reason_of_send(int error) noexcept;
// Seals one record of our own (alert, KeyUpdate) behind what waits. send_lock held.
bool queue_control(Slot &slot, tls::ContentType type, std::span<const std::uint8_t> message) noexcept;

// What waits, for those who look before they lock. send_lock held.
void note_output(Slot &slot) noexcept;
struct UnderWay;
// A thread is in a blocking send of the tail, or nobody can tell how far one came that was left. What one
// of this thread's took that it has jumped out of is noted first. send_lock held.
bool is_being_flushed(Slot &slot, int fd) noexcept;
// Sends the tail with blocking calls outside the lock. Returns 0 when it is gone, else an errno:
// EAGAIN means the descriptor does not block, or its SO_SNDTIMEO ran out.
int flush_blocking(Slot &slot, UnderWay &call);

// --- the helper (helper.cc) ---------------------------------------------------------------------

// The session has something the helper must see to: a handshake, early data, a tail. Lock-free.
void notify_helper(Slot &slot) noexcept;
// There is something for it that is of no session (agent_link.h). Any thread.
void wake_helper() noexcept;
// A process with an established session has a helper that follows the policy. One load when it runs.
void keep_watch() noexcept;
// Takes an inbound session nobody has touched yet: this process becomes its owner.
void take_ownership(Slot &slot, int fd) noexcept;

// SO_COOKIE; 0 for what is no socket (socket_facts.cc).
std::uint64_t cookie_of(int fd) noexcept;
// A TCP socket that is connected (socket_facts.cc).
bool is_connection(int fd) noexcept;
// An inbound connection on which nothing was sent, with all that was received still unread: nobody has
// begun anything on it (socket_facts.cc). What somebody connected here is never fresh: who did has begun.
bool is_fresh(int fd) noexcept;
// Whatever fd is, policy has nothing against its bytes in the clear: no connection, or one of a rule
// or default that says so (setup.cc).
bool may_be_in_the_clear(int fd) noexcept;

// --- buffers (scratch.cc) -----------------------------------------------------------------------

inline constexpr std::size_t kScratchRecords = 4;
inline constexpr std::size_t kScratchSize = kScratchRecords * (tls::kMaxRecord + 64);

// Room for ciphertext on its way, and for one record's plaintext. Borrowed from a pool without locks,
// so that nothing of it lies on the program's stack.
struct Scratch {
  std::uint8_t bytes[kScratchSize];
  std::uint8_t plain[tls::kMaxCiphertext + 64];
};
class BorrowedScratch {
 public:
  BorrowedScratch() noexcept;
  ~BorrowedScratch();
  BorrowedScratch(const BorrowedScratch &) = delete;
  BorrowedScratch &operator=(const BorrowedScratch &) = delete;
  explicit operator bool() const noexcept { return scratch_ != nullptr; }
  Scratch *operator->() const noexcept { return scratch_; }

 private:
  Scratch *scratch_;
};

// What is at the front of the kernel's queue, up to `most`, looked at without taking it: in the scratch
// where that is large enough, or in memory of its own.
class QueueView {
 public:
  QueueView(int fd, Scratch &scratch, std::size_t most) noexcept;
  ~QueueView();
  QueueView(const QueueView &) = delete;
  QueueView &operator=(const QueueView &) = delete;
  std::span<const std::uint8_t> bytes() const noexcept { return {window_, length_}; }

 private:
  std::uint8_t *window_;
  std::size_t length_ = 0;
  std::size_t mapped_ = 0;
};

}  // namespace inlay::shim
