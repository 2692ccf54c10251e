// Requests of HTTP/1.1 (RFC 9112), read strictly: what two readers could take for two things is
// refused. No chunked bodies (411), no expectations (417); nothing here touches a socket.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity::rpc {

struct PeerIdentity;

inline constexpr std::size_t kMaxRequestHead = 16 * 1024;
inline constexpr std::size_t kMaxRequestBody = 64 * 1024;

struct HttpRequest {
  std::string method;         // "GET"
  std::string path;           // "/.well-known/est/cacerts": as it was sent, without the query
  std::string authorization;  // "" = there was none
  std::string content_type;
  std::string body;
  std::shared_ptr<const PeerIdentity> peer;  // the server's
};

struct HttpProblem {
  int status = 400;
  std::string message;  // one line; nothing of the request is in it
};

// Nothing: `bytes` is the beginning of a request. What follows a request is not looked at.
std::optional<tl::expected<HttpRequest, HttpProblem>> read_http_request(std::string_view bytes);

}  // namespace inlay::identity::rpc
