#include "identity/agent/credentials.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76  // Linux 6.5
#define SO_PEERPIDFD 77
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04
#endif

namespace inlay::identity::agent {

using policy::UniqueFd;

bool pass_credentials(int fd) noexcept {
  const int on = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) return false;
  setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &on, sizeof on);  // not everywhere
  return true;
}

std::optional<Caller> peer_of(int fd) noexcept {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return std::nullopt;
  return Caller{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid};
}

Message receive(int fd, std::span<char> room) noexcept {
  iovec part{room.data(), room.size()};
  // Descriptors the writer sent come before the pidfd: without room for some they would take its.
  constexpr std::size_t kForeign = 8;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int)) +
                                CMSG_SPACE(kForeign * sizeof(int))];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  Message out;
  do {
    out.length = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (out.length < 0 && errno == EINTR);
  if (out.length < 0) return out;
  out.foreign = (header.msg_flags & MSG_CTRUNC) != 0;
  for (cmsghdr *item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET) continue;
    const std::size_t size = item->cmsg_len - CMSG_LEN(0);
    if (item->cmsg_type == SCM_CREDENTIALS && size == sizeof(ucred)) {
      ucred credentials{};
      std::memcpy(&credentials, CMSG_DATA(item), sizeof credentials);
      out.writer = Caller{credentials.pid, credentials.uid, credentials.gid};
    } else if (item->cmsg_type == SCM_PIDFD && size == sizeof(int)) {
      int pidfd = -1;  // negative: an error in its place
      std::memcpy(&pidfd, CMSG_DATA(item), sizeof pidfd);
      out.pidfd = UniqueFd(pidfd);
      // The pid cannot be held to its process then: it is nobody's.
      if (pidfd < 0) out.writer.reset();
    } else if (item->cmsg_type == SCM_RIGHTS) {
      out.foreign = true;
      for (std::size_t i = 0; i < size / sizeof(int); ++i) {
        int passed = -1;
        std::memcpy(&passed, CMSG_DATA(item) + i * sizeof(int), sizeof passed);
        UniqueFd closed(passed);
      }
    }
  }
  return out;
}

}  // namespace inlay::identity::agent
