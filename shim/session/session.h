// What the hooks call for a managed descriptor: one function per family of calls. Each returns what
// the libc call returns and sets errno as Linux TCP does; errno is preserved on success.
//
// Thread safety: all functions may be called from any thread, from signal handlers (re-entry on a
// locked session gives EAGAIN) and in forked children. None allocates from the host's malloc or
// blocks longer than the call it serves may.
//
// What is not noexcept may be cancelled (pthread_cancel) where the call it serves may: a forced
// unwinding leaves through it, with nothing locked and nothing counted (session/cancel.h).
#pragma once

#include <cstddef>
#include <span>

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

namespace inlay::shim {

struct Slot;

// --- setting up (shim/session/setup.cc) ---------------------------------------------------------

// connect(): for every descriptor; policy decides. `caller`: return address in the program.
int connect_socket(int fd, const sockaddr *address, socklen_t length, const void *caller);
// sendto/sendmsg with MSG_FASTOPEN on a socket without a session: a connect plus an early write.
ssize_t connect_and_send(int fd, const msghdr *message, int flags, const void *caller);
// After a successful accept: decides, and makes the new descriptor managed where policy says so.
// Returns fd. Called with the descriptor fresh from the kernel.
int accepted(int listener, int fd) noexcept;

// For sockets of the C library's own: whether policy lets a connection there through in the clear. Logs
// when it does not.
bool may_connect_in_the_clear(const sockaddr *address, socklen_t length) noexcept;

// --- data (receive.cc, send.cc, send_file.cc) ---------------------------------------------------

ssize_t receive(Slot &slot, int fd, std::span<const iovec> parts, int flags);
// recvmsg: fills name, control and msg_flags as TCP does.
ssize_t receive_message(Slot &slot, int fd, msghdr *message, int flags);
ssize_t send(Slot &slot, int fd, std::span<const iovec> parts, int flags);
// sendmsg: control data is refused or ignored as TCP does.
ssize_t send_message(Slot &slot, int fd, const msghdr *message, int flags);
// sendfile, copy_file_range to a socket: `offset` null = the file's own position.
ssize_t send_file(Slot &slot, int fd, int from, off64_t *offset, std::size_t count) noexcept;

// --- data where there is no connection (unconnected.cc) ------------------------------------------

// Stands for the session of a TCP socket that has none yet, in the four functions above for data.
Slot &unconnected_session() noexcept;

// --- options (options.cc) -----------------------------------------------------------------------

int get_option(Slot &slot, int fd, int level, int name, void *value, socklen_t *length) noexcept;
int set_option(Slot &slot, int fd, int level, int name, const void *value,
               socklen_t length) noexcept;
// ioctl: FIONREAD, SIOCOUTQ, ... ; others go to the kernel.
int control(Slot &slot, int fd, unsigned long request, void *argument) noexcept;

// --- accepted for another program (untouched.cc) ------------------------------------------------

// The connection on `fd` is handed to another process before anybody has touched it: its readiness
// shows again, and whoever touches it first begins. Of this process's memory it writes only the shared
// slot: safe in a vfork child.
void hand_on(Slot &slot, int fd) noexcept;
// Before exec, in whatever process: what is on 0, 1 and 2 is the next program's.
void hand_on_standard_streams() noexcept;
// Another process may get this one's descriptors: fork, exec, posix_spawn, system().
void note_giving() noexcept;

// --- descriptors and endings (lifetime.cc) ------------------------------------------------------

int shut_down(Slot &slot, int fd, int how) noexcept;
// close(fd) of a managed descriptor.
int close_managed(Slot &slot, int fd);
// After a successful dup/dup2/dup3/fcntl(F_DUPFD*): `to` now names what `from` names.
void duplicated(Slot &slot, int from, int to) noexcept;
// Whether `to` may name a session: not beyond the descriptor table. Logs when it may not; the caller
// takes the copy back.
bool may_name(Slot &slot, int to) noexcept;
// Before dup2/dup3 replaces a managed `to`: ends what it named as close would, without closing it.
void before_replace(Slot &slot, int to) noexcept;
// close_range/closefrom: sessions in [first, last]; the caller makes the system call for `[first,
// last]` afterwards, minus inlay's own descriptors.
void before_close_range(unsigned first, unsigned last) noexcept;
// After it: the numbers are free.
void after_close_range(unsigned first, unsigned last) noexcept;
// epoll_ctl bookkeeping after success. No system call for a set that is known already; right in a vfork
// child too.
void watched(Slot &slot, int epoll, int operation) noexcept;

// exit, _exit, quick_exit, exec*: finishes what managed connections owe. `will_exec`: only
// descriptors marked close-on-exec are ended.
void flush_everything(bool will_exec) noexcept;
// After it: the program that was to take this one's place could not be executed.
void exec_failed() noexcept;

// Fails the session closed with a reason: kernel shutdown, log record. For stdio and other calls
// inlay can't protect.
enum class Refusal { stdio, call };
void refuse(Slot &slot, int fd, Refusal what, const char *detail) noexcept;

// A call inlay does not support on a managed socket: one log record; the session lives on.
void note_unsupported(Slot &slot, int fd, const char *call) noexcept;
// A call that would make connections of its own is refused: one log record.
void note_refused(const char *call) noexcept;

// Learned names (names.cc): the process resolved `name` to this address.
void learn_name(const char *name, const sockaddr *address, socklen_t length) noexcept;
// True when policy needs learned names: the name hooks skip all work otherwise.
bool wants_names() noexcept;

// True for a descriptor that is inlay's own (hidden): close gives EBADF, close_range skips it.
bool is_own_descriptor(int fd) noexcept;
// The next own descriptor at or above `from`, or -1.
int next_own_descriptor(int from) noexcept;

}  // namespace inlay::shim
