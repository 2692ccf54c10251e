// Sessions of process trees that share no arena with this one. A connection comes from there in a
// message (SCM_RIGHTS), by pidfd_getfd(), or through a program that was started without the hooks:
// system() and popen() do so. Processes of the same user that have its session have the memory it
// lives in open, under a name that /proc tells; the cookie says which.
//
// The sender is asked first, then the parent and all that /proc shows; none of them need know.
// Memory is believed when it is of this build and user, sealed, and has the cookie; a slot when no
// number leads out of it. It is mapped for the sessions this process has descriptors of, never for
// new ones. Its owner goes on with it, but uses no slot twice: what anybody knows of one never is
// of another session.
//
// Not found, and refused: what another user has, a process that may not be dumped, or one in a PID
// namespace that this one's /proc does not show; anything where there is no /proc, or under the program's own seccomp filter; a session
// that nobody has any more, such as that of a child of popen() slower than its parent's close. The
// policy of the process that joined judges the session from then on.
#pragma once

#include <cstdint>

namespace inlay::shim {

struct Slot;

// Joins the session with the cookie, which is that of `fd`, where a mapped arena has it; else null.
Slot *join_known(std::uint64_t cookie, int fd) noexcept;
// Joins the session of `fd`, a connection that no mapped arena knows, where `process` has it; null
// when it has not. Preserves errno.
Slot *join_from(std::uint32_t process, int fd) noexcept;
// The same of any process: the parent first. Takes time, for what would otherwise be refused.
Slot *join_from_anywhere(int fd) noexcept;

}  // namespace inlay::shim
