#include "identity/rpc/socket_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <array>
#include <charconv>
#include <cstring>

namespace inlay::identity::rpc {

tl::expected<HostPort, std::string> parse_host_port(std::string_view text) {
  const auto bad = [&] {
    return tl::unexpected(
        fmt::format("\"{}\" is no HOST:PORT, as ca.example.org:8443 or [2001:db8::7]:8443", text));
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad();
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.starts_with('[') != host.ends_with(']')) return bad();
  if (host.starts_with('[')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad();  // an IPv6 address needs its brackets
  }
  unsigned number = 0;
  const auto parsed = std::from_chars(port.data(), port.data() + port.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != port.data() + port.size() || number > 65535 ||
      host.find_first_of(" /@#?[]") != std::string_view::npos) {
    return bad();
  }
  return HostPort{std::string(host), std::string(port)};
}

tl::expected<AddressList, std::string> resolve(const HostPort &where, bool to_listen) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : AI_ADDRCONFIG);
  addrinfo *found = nullptr;
  const char *const host = where.host.empty() ? nullptr : where.host.c_str();
  int error = ::getaddrinfo(host, where.port.c_str(), &hints, &found);
  if (error != 0 && !to_listen) {
    // Where loopback is all there is, AI_ADDRCONFIG finds nothing at all.
    hints.ai_flags = AI_NUMERICSERV;
    error = ::getaddrinfo(host, where.port.c_str(), &hints, &found);
  }
  if (error != 0) {
    return tl::unexpected(
        fmt::format("cannot find the host \"{}\": {}", where.host, ::gai_strerror(error)));
  }
  return AddressList(found, ::freeaddrinfo);
}

namespace {

struct Text {
  std::string host;
  unsigned port = 0;
};

Text text_of(const sockaddr_storage &address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto size = static_cast<socklen_t>(text.size());
  if (address.ss_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, &address, sizeof in);
    ::inet_ntop(AF_INET, &in.sin_addr, text.data(), size);
    return {text.data(), ntohs(in.sin_port)};
  }
  if (address.ss_family == AF_INET6) {
    sockaddr_in6 in{};
    std::memcpy(&in, &address, sizeof in);
    if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
      ::inet_ntop(AF_INET, in.sin6_addr.s6_addr + 12, text.data(), size);
      return {text.data(), ntohs(in.sin6_port)};
    }
    ::inet_ntop(AF_INET6, &in.sin6_addr, text.data(), size);
    return {fmt::format("[{}]", text.data()), ntohs(in.sin6_port)};
  }
  return {"?", 0};
}

}  // namespace

std::string address_text(const sockaddr_storage &address) {
  const Text text = text_of(address);
  return fmt::format("{}:{}", text.host, text.port);
}

std::string host_text(const sockaddr_storage &address) { return text_of(address).host; }

void keep_alive(int fd) {
  const auto set = [fd](int level, int name, int value) {
    ::setsockopt(fd, level, name, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 60);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 20);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  set(IPPROTO_TCP, TCP_NODELAY, 1);
}

}  // namespace inlay::identity::rpc
