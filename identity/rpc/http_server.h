// HTTP/1.1 over TlsServer: one request for each connection, which is closed after the answer. For
// what browsers, devices and other authorities fetch; agents speak gRPC.
//
// Bounded like the connections below it: the size of a request, the time it may take to come and
// its answer to go, how many are worked on and how many wait.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>
#include <vector>

#include "identity/rpc/http_request.h"
#include "identity/rpc/tls_server.h"

namespace inlay::identity::rpc {

struct HttpAnswer {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers = {};  // further ones
};
// An answer of one line for a person.
HttpAnswer http_sentence(int status, std::string_view sentence);

struct HttpServerSettings {
  std::vector<std::string> listen;  // "0.0.0.0:8444"; port 0 picks one
  std::size_t connections = 512;
  std::size_t connections_of_an_address = 16;
  int request_seconds = 10;  // for a request to come, and again for its answer to go
  bool ask_client = false;   // for a certificate
};

class HttpServer {
 public:
  struct Host {
    std::function<std::shared_ptr<const BundleSet>()> bundles;  // as TlsServer's
    std::function<std::time_t()> now;
    // Several threads. May wait; must not throw.
    std::function<HttpAnswer(const HttpRequest &)> answer;
    std::function<void(std::string_view address, std::string_view why)> refused;
  };

  static tl::expected<std::unique_ptr<HttpServer>, std::string> listen(HttpServerSettings settings,
                                                                       Host host,
                                                                       const TlsCredentials &own);
  // Ends every connection.
  ~HttpServer();
  HttpServer(const HttpServer &) = delete;
  HttpServer &operator=(const HttpServer &) = delete;

  std::vector<std::string> addresses() const;
  // New handshakes use it. Any thread.
  tl::expected<void, std::string> use(const TlsCredentials &own);

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inlay::identity::rpc
