// Internet addresses as text, and sockets for them.
#pragma once

#include <netdb.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity::rpc {

struct HostPort {
  std::string host;  // a name or an address, without brackets; "" = every address
  std::string port;  // a number
};

// "ca.example.org:8443", "192.0.2.7:8443", "[2001:db8::7]:8443". The error is one line.
tl::expected<HostPort, std::string> parse_host_port(std::string_view text);

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo *)>;
// For TCP; waits for the resolver. The error is one line that names the host.
tl::expected<AddressList, std::string> resolve(const HostPort &where, bool to_listen);

// "192.0.2.7:8443", "[2001:db8::7]:8443"; mapped addresses (::ffff:192.0.2.7) as what they map.
std::string address_text(const sockaddr_storage &address);
// The same without the port.
std::string host_text(const sockaddr_storage &address);

// A connection whose other end has gone without a word is noticed after some minutes, and small
// messages do not wait for each other.
void keep_alive(int fd);

}  // namespace inlay::identity::rpc
