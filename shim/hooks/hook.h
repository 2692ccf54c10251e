// What the hooks share. A hook is a few lines: a descriptor that is not managed goes to the next
// symbol, a managed one into session/. Nothing is allocated, locked or logged before that branch.
#pragma once

#include <cerrno>
#include <span>

#include "shim/arena/descriptors.h"
#include "shim/arena/process.h"
#include "shim/boot/level.h"
#include "shim/hooks/next.h"
#include "shim/session/session.h"

namespace inlay::shim {

void note_unsupported(Slot &slot, int fd, const char *call) noexcept;

// True for a descriptor that no hook ever has anything to do for: inlay is off, or it is no socket
// inlay protects. Unlike managed() it is false for a TCP socket without a session.
inline bool passes(int fd) noexcept { return !boot::active() || descriptor_word(fd) == kUnmanaged; }

// The next symbols for a hook that does not ask managed() first: bound even before the constructor.
inline const Next &bound() noexcept {
  boot::active();
  return next;
}

// The session of a managed descriptor whose books this process keeps; null in a vfork child, which
// shares its parent's memory but not its descriptors.
inline Slot *managed_here(int fd) noexcept {
  Slot *slot = managed(fd);
  return slot != nullptr && !in_foreign_process() ? slot : nullptr;
}

// The session a call's data is for, null where it is the kernel's. Of a TCP socket without a connection, too:
// another thread may be connecting it.
inline Slot *session_for_data(int fd) noexcept {
  Slot *slot = managed(fd);
  return slot == nullptr && boot::active() && descriptor_word(fd) == kSocket ? &unconnected_session()
                                                                             : slot;
}

// What a successful call put at this number is not what was known of it.
inline int created(int fd) noexcept {
  if (fd >= 0 && boot::active()) forget_descriptor(fd);
  return fd;
}

inline int fail(int error) noexcept {
  errno = error;
  return -1;
}

inline std::span<const iovec> one_part(const iovec &part) noexcept { return {&part, 1}; }

}  // namespace inlay::shim
