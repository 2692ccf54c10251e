// The way from an agent to the authority: TLS 1.3, the authority judged by a pin or by a trust
// bundle and by its SPIFFE ID, never by a host name.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/bundle.h"
#include "identity/svid.h"
#include "policy/trusted_file.h"

namespace inlay::identity::rpc {

// The SHA-256 of the SubjectPublicKeyInfo of the authority's root certificate.
using Pin = std::array<std::uint8_t, 32>;
// The path of the authority's own SPIFFE ID, in any trust domain.
inline constexpr std::string_view kAuthorityPath = "/inlay/ca";

// How the authority is known: at first contact by the pin of its root, which it then must send;
// later by the bundle of the trust domain.
struct AuthorityTrust {
  std::optional<Pin> pin;
  const BundleSet *bundles = nullptr;  // without a pin
  std::string trust_domain;            // which it must be of; "" with a pin: any
};

struct Dialled {
  policy::UniqueFd fd;       // the clear end, for CreateCustomInsecureChannelFromFd
  std::string trust_domain;  // of the authority
};

// Dials, and passes bytes on until it ends. One object serves many connections.
class TlsClient {
 public:
  TlsClient();
  // Ends every connection.
  ~TlsClient();
  TlsClient(const TlsClient &) = delete;
  TlsClient &operator=(const TlsClient &) = delete;

  // `where` is HOST:PORT; `own` null to stay anonymous. Waits, at most `seconds`. The error is one
  // line: what is wrong, and what to do about it. Any thread of a process that ignores SIGPIPE.
  tl::expected<Dialled, std::string> dial(std::string_view where, const AuthorityTrust &trust,
                                          const X509Svid *own, std::time_t now, int seconds);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inlay::identity::rpc
