// What the kernel says of a descriptor. Where it does not say, for want of memory or because a
// security module forbids the question, a socket counts as TCP and an address as that of a
// connection: what may have to be protected is never taken for something else.
#pragma once

#include <cstdint>
#include <optional>

#include "policy/policy.h"

namespace inlay::shim {

int int_option(int fd, int level, int name, int otherwise) noexcept;

enum class SocketKind : std::uint8_t {
  none,  // no descriptor at all
  other,
  tcp,  // a stream socket of AF_INET or AF_INET6 over TCP or MPTCP
};
SocketKind socket_kind(int fd) noexcept;
inline bool is_tcp(int fd) noexcept { return socket_kind(fd) == SocketKind::tcp; }

// One end of what fd is.
struct End {
  std::optional<policy::Endpoint> endpoint;  // none: not connected, or not of AF_INET or AF_INET6
  bool unknown = false;                      // the kernel did not say
  bool exists() const noexcept { return endpoint || unknown; }
};
End own_end(int fd) noexcept;
End peer_end(int fd) noexcept;
// The socket has a port: before connect(), one that bind() gave it.
bool is_bound(int fd) noexcept;

}  // namespace inlay::shim
