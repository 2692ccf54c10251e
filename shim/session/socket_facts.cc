#include "shim/session/socket_facts.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>

#include "shim/arena/kernel.h"
#include "shim/session/internal.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

namespace inlay::shim {
namespace {

using policy::Endpoint;

constexpr std::uint8_t kTcpEstablished = 1;  // of the kernel's tcp_states.h
constexpr std::uint8_t kTcpClose = 7;
constexpr std::uint8_t kTcpListen = 10;

// A filter may forbid the question for sockets and files alike.
bool is_socket(int fd) noexcept {
  struct stat info {};
  return kernel::call(SYS_fstat, fd, kernel::word(&info)) == 0 && S_ISSOCK(info.st_mode);
}

// Of its address, which says so of every socket; AF_UNSPEC when it does not.
int family_of(int fd) noexcept {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  long result = kernel::call(SYS_getsockname, fd, kernel::word(&address), kernel::word(&length));
  return result == 0 ? address.ss_family : AF_UNSPEC;
}

End end_of(int fd, long call) noexcept {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  long result = kernel::call(call, fd, kernel::word(&address), kernel::word(&length));
  if (result == 0) return {Endpoint::from_sockaddr(reinterpret_cast<sockaddr *>(&address), length)};
  return {.endpoint = {},
          .unknown = result != -ENOTCONN && result != -ENOTSOCK && result != -EBADF};
}

}  // namespace

int int_option(int fd, int level, int name, int otherwise) noexcept {
  int value = otherwise;
  socklen_t length = sizeof(value);
  return kernel::get_option(fd, level, name, &value, &length) == 0 ? value : otherwise;
}

SocketKind socket_kind(int fd) noexcept {
  int domain = 0;
  socklen_t length = sizeof(domain);
  long result = kernel::get_option(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
  if (result == -EBADF) return SocketKind::none;
  if (result != 0) {
    if (result == -ENOTSOCK || !is_socket(fd)) return SocketKind::other;
    domain = family_of(fd);
    if (domain == AF_UNSPEC) domain = AF_INET;  // for all that is known
  }
  if (domain != AF_INET && domain != AF_INET6) return SocketKind::other;
  if (int_option(fd, SOL_SOCKET, SO_TYPE, SOCK_STREAM) != SOCK_STREAM) return SocketKind::other;
  int protocol = int_option(fd, SOL_SOCKET, SO_PROTOCOL, IPPROTO_TCP);
  bool tcp = protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
  return tcp ? SocketKind::tcp : SocketKind::other;
}

End own_end(int fd) noexcept { return end_of(fd, SYS_getsockname); }

End peer_end(int fd) noexcept {
  End peer = end_of(fd, SYS_getpeername);
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (peer.unknown && kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0) {
    peer.unknown = info.tcpi_state != kTcpClose && info.tcpi_state != kTcpListen;
  }
  return peer;
}

bool is_bound(int fd) noexcept {
  const std::optional<Endpoint> own = own_end(fd).endpoint;
  return own && own->port != 0;
}

std::uint64_t cookie_of(int fd) noexcept {
  std::uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  return kernel::get_option(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

bool is_connection(int fd) noexcept {
  return is_tcp(fd) && int_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0) == 0 && peer_end(fd).exists();
}

bool is_fresh(int fd) noexcept {
  // Twice: tcp_get_info() looks at the state before it locks the socket, and a FIN that comes in
  // between is among the bytes received of a connection that seems to have none.
  for (int look = 0; look < 2; ++look) {
    tcp_info info{};
    socklen_t size = sizeof(info);
    if (kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return false;
    int unread = 0;
    kernel::call(SYS_ioctl, fd, FIONREAD, kernel::word(&unread));
    // The peer's FIN counts as a byte received. More may have come between the two questions.
    std::uint64_t fin = info.tcpi_state == kTcpEstablished ? 0 : 1;
    // The kernel counts a SYN that was acknowledged among the bytes (tcp_snd_una_update), but not
    // the SYN-ACK of a connection that was accepted.
    if (info.tcpi_bytes_acked != 0 || info.tcpi_bytes_sent != 0) return false;
    if (info.tcpi_bytes_received <= static_cast<std::uint64_t>(unread) + fin) return true;
  }
  return false;
}

}  // namespace inlay::shim
