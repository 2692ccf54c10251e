// One HTTPS request and its answer, by libcurl: to other authorities' bundle endpoints and to EST
// servers. TLS 1.2 at least, no redirects, no proxies, and nothing without a bound.
#pragma once

#include <atomic>
#include <cstddef>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/bundle.h"
#include "identity/rpc/tls_context.h"

namespace inlay::identity::rpc {

// How the server is known. With a SPIFFE ID: by that and `bundles`, whatever its host is called.
// Else by its host name and WebPKI: `anchors`, or where there are none the system's.
struct HttpsTrust {
  std::string spiffe_id = {};
  const BundleSet *bundles = nullptr;
  std::span<const X509Ptr> anchors = {};
};

struct HttpsRequest {
  std::string url;
  std::string content_type = {};  // of the body, which is posted; "" = GET
  std::string body = {};
  std::string user = {}, password = {};     // HTTP Basic (RFC 7617) when there is a user
  std::optional<TlsCredentials> own = {};   // the certificate that is shown to the server
  std::size_t most = std::size_t{1} << 20;  // bytes of the answer
  int connect_seconds = 10, seconds = 30;
  const std::atomic<bool> *ending = nullptr;  // becomes true: nobody waits for the answer
};

struct HttpsAnswer {
  int status = 0;
  std::string type;  // its Content-Type
  std::string body;
};

// Waits. A redirect is an error, any other status is an answer. The error is one line that begins
// with the URL. Any thread of a process that ignores SIGPIPE.
tl::expected<HttpsAnswer, std::string> ask_https(const HttpsRequest &request,
                                                 const HttpsTrust &trust, std::time_t now);

}  // namespace inlay::identity::rpc
