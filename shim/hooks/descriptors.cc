// Calls that make, copy and close descriptors.
//
// A vfork child shares the table with its parent but not the descriptors: what it closes or
// replaces is still open in the parent. There the hooks go straight through, and at most demote a
// word to unknown, which the parent probes again.

#include <algorithm>
#include <optional>

#include "shim/hooks/hook.h"
#include "shim/session/fork.h"

using namespace inlay::shim;

namespace {

// close() of a descriptor without a session.
bool may_close(int fd) {
  if (!boot::active()) return true;
  if (is_own_descriptor(fd)) return false;
  // A file's as well: the next owner of the number may come by a call that no hook sees.
  forget_file(fd);
  return true;
}

template <typename Close>
int close_with(Close close, int fd) {
  Slot *slot = descriptor_word(fd) == kFile ? nullptr : managed(fd);
  if (slot != nullptr) {
    if (!in_foreign_process()) return close_managed(*slot, fd);
  } else if (!may_close(fd)) {
    return fail(EBADF);
  }
  return close(fd);
}

// After a call that made `to` another name of what `from` names. `error`: what the call says of a
// number that is too high.
int copied(int from, int to, int error) {
  if (to < 0 || !boot::active()) return to;
  if (from == to) return to;
  Slot *slot = managed(from);
  if (slot != nullptr || descriptor_word(from) != kUnmanaged) {
    forget_descriptor(to);
  } else {
    forget_file(to);
  }
  if (slot != nullptr) {
    if (!may_name(*slot, to)) {
      next.close(to);
      return fail(error);
    }
    if (in_foreign_process()) {
      hand_on(*slot, to);
    } else {
      duplicated(*slot, from, to);
    }
  }
  return to;
}

bool is_open(int fd) {
  int saved = errno;
  bool open = next.fcntl(fd, F_GETFD) >= 0;
  errno = saved;
  return open;
}

// dup2 and dup3 close `to` first, if the call will succeed at all.
void make_room(int from, int to) {
  if (from == to || !boot::active() || !is_open(from)) return;
  if (Slot *slot = managed_here(to)) before_replace(*slot, to);
}

template <typename Control>
int control_with(Control next_fcntl, int fd, int command, void *argument) {
  if (command != F_DUPFD && command != F_DUPFD_CLOEXEC) return next_fcntl(fd, command, argument);
  return copied(fd, next_fcntl(fd, command, argument), EMFILE);
}

constexpr int kUnshare = static_cast<int>(CLOSE_RANGE_UNSHARE);

// Closes [first, last] except inlay's own descriptors.
template <typename CloseRange>
int close_around_own(unsigned first, unsigned last, CloseRange close) {
  unsigned from = first;
  while (from <= last) {
    int own = from <= INT_MAX ? next_own_descriptor(static_cast<int>(from)) : -1;
    if (own < 0 || static_cast<unsigned>(own) > last) return close(from, last);
    auto number = static_cast<unsigned>(own);
    if (number > from) {
      int result = close(from, number - 1);
      if (result != 0) return result;
    }
    from = number + 1;
  }
  return 0;
}

}  // namespace

extern "C" {

int socket(int domain, int type, int protocol) noexcept {
  return created(bound().socket(domain, type, protocol));
}

int __socket(int domain, int type, int protocol) {
  return created(bound().__socket(domain, type, protocol));
}

int socketpair(int domain, int type, int protocol, int pair[2]) noexcept {
  int result = bound().socketpair(domain, type, protocol, pair);
  if (result == 0) {
    created(pair[0]);
    created(pair[1]);
  }
  return result;
}

int pidfd_getfd(int pidfd, int target, unsigned int flags) {
  if (bound().pidfd_getfd == nullptr) return fail(ENOSYS);
  return created(next.pidfd_getfd(pidfd, target, flags));
}

int close(int fd) { return close_with(next.close, fd); }
int __close(int fd) { return close_with(next.__close, fd); }
int __close_nocancel(int fd) { return close_with(next.__close_nocancel, fd); }

int close_range(unsigned int first, unsigned int last, int flags) noexcept {
  if (bound().close_range == nullptr) return fail(ENOSYS);
  // The table of descriptors is this thread's own from there on, and the helper must have the same.
  std::optional<HelperAside> aside;
  if ((flags & kUnshare) != 0 && boot::active() && !in_foreign_process()) aside.emplace(0, true);
  // CLOSE_RANGE_CLOEXEC closes nothing now, and inlay's own are marked already. An empty range asks
  // the kernel whether it takes the flags at all.
  if (!boot::active() || first > last || (flags & ~kUnshare) != 0) {
    return next.close_range(first, last, flags);
  }
  // In a vfork child inlay's own stay as well: it may execute something next.
  bool books = !in_foreign_process();
  if (books) before_close_range(first, last);
  int result = close_around_own(first, last, [flags](unsigned from, unsigned to) {
    return next.close_range(from, to, flags);
  });
  if (books) after_close_range(first, last);
  return result;
}

void closefrom(int first) noexcept {
  auto from = static_cast<unsigned>(std::max(first, 0));
  if (!boot::active() || next.close_range == nullptr) return bound().closefrom(first);
  bool books = !in_foreign_process();
  if (books) before_close_range(from, ~0u);
  int saved = errno;
  int result = close_around_own(
      from, ~0u, [](unsigned low, unsigned high) { return next.close_range(low, high, 0); });
  // A kernel without close_range: the C library walks /proc/self/fd, inlay's own included.
  if (result != 0) next.closefrom(first);
  if (books) after_close_range(from, ~0u);
  errno = saved;
}

int dup(int fd) noexcept { return copied(fd, bound().dup(fd), EMFILE); }

int dup2(int from, int to) noexcept {
  make_room(from, to);
  return copied(from, bound().dup2(from, to), EBADF);
}

int __dup2(int from, int to) {
  make_room(from, to);
  return copied(from, bound().__dup2(from, to), EBADF);
}

int dup3(int from, int to, int flags) noexcept {
  if ((flags & ~O_CLOEXEC) == 0) make_room(from, to);
  return copied(from, bound().dup3(from, to, flags), EBADF);
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void *argument = va_arg(list, void *);
  va_end(list);
  return control_with(bound().fcntl, fd, command, argument);
}

int __fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void *argument = va_arg(list, void *);
  va_end(list);
  return control_with(bound().__fcntl, fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void *argument = va_arg(list, void *);
  va_end(list);
  return control_with(bound().fcntl64, fd, command, argument);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) noexcept {
  Slot *slot = managed(fd);
  int result = bound().epoll_ctl(epoll, operation, fd, event);
  if (result == 0 && slot != nullptr) watched(*slot, epoll, operation);
  return result;
}

}  // extern "C"
