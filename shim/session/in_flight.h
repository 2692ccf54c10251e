// Sessions whose descriptors travel between processes in messages (SCM_RIGHTS). From before the
// message is sent until it is received one counts as held: the sender may close its own descriptor
// at once.
#pragma once

#include <sys/socket.h>

#include <cstring>

namespace inlay::shim {

// Calls visit(fd) for each descriptor a message carries.
template <typename F>
void for_each_passed(const msghdr *message, F &&visit) noexcept {
  if (message->msg_control == nullptr) return;
  for (cmsghdr *part = CMSG_FIRSTHDR(message); part != nullptr;
       part = CMSG_NXTHDR(const_cast<msghdr *>(message), part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    if (part->cmsg_len < CMSG_LEN(0)) return;
    std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      visit(fd);
    }
  }
}

// sendmsg and sendmmsg on a descriptor that is not managed, with control data. Cancellation points.
ssize_t send_passing(int fd, const msghdr *message, int flags);
int send_all_passing(int fd, mmsghdr *messages, unsigned count, int flags);
// A descriptor came in a message over `over`, and is not in the queue any more. Preserves errno.
void arrived(int fd, int over) noexcept;

}  // namespace inlay::shim
