// What a machine asks an EST server (RFC 7030), and what it makes of the answers. Keeps nothing.
#pragma once

#include <atomic>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/est_settings.h"
#include "identity/openssl.h"
#include "identity/rpc/tls_context.h"

namespace inlay::identity::agent {

// The answer to cacerts.
struct EstAuthorities {
  std::vector<std::string> anchors;  // DER, self-signed, in an order that does not change
  std::vector<std::string> between;  // DER: others, of which chains may need some
  bool operator==(const EstAuthorities &) const = default;
};
// The error is one line. No anchor at all is one.
tl::expected<EstAuthorities, std::string> sort_authorities(
    const std::vector<X509Ptr> &certificates);

struct EstChain {
  std::vector<X509Ptr> certificates;  // leaf first, without the anchor
  bool complete = false;              // an anchor is next; whether peers agree is not said
};
// The first of `given` and what leads from it to an anchor, out of the others and what lies
// between.
EstChain est_chain(const std::vector<X509Ptr> &given, const EstAuthorities &authorities);

class EstLink {
 public:
  // `ending` as in HttpsRequest.
  EstLink(EstSettings settings, const std::atomic<bool> &ending)
      : settings_(std::move(settings)), ending_(ending) {}

  // Each waits, at most half a minute. `known`: what cacerts said before; where the server is known
  // by a file, those may have signed its certificate, too (RFC 7030 §3.6.1): roots are replaced.
  tl::expected<EstAuthorities, std::string> authorities(const EstAuthorities &known) const;
  // `operation`: "simpleenroll" or "simplereenroll". Without `own` by the password.
  // The certificate for that key first, then what else was in the answer.
  tl::expected<std::vector<X509Ptr>, std::string> enroll(
      std::string_view operation, EVP_PKEY *key, const std::string &csr,
      const std::optional<rpc::TlsCredentials> &own, const EstAuthorities &known) const;

 private:
  struct Asked {
    std::string operation;
    std::string content_type = {}, body = {};
    std::optional<rpc::TlsCredentials> own = {};
    std::string user = {}, password = {};
  };
  tl::expected<std::vector<X509Ptr>, std::string> ask(const Asked &asked,
                                                      const EstAuthorities &known) const;

  const EstSettings settings_;
  const std::atomic<bool> &ending_;
};

}  // namespace inlay::identity::agent
