// Where the agent's SVIDs come from: one interface, a file for each kind (authority_source,
// files_source, workload_api_source).
#pragma once

#include <cstdint>
#include <ctime>
#include <map>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/svid.h"

namespace inlay::identity::agent {

// What a source says of one trust domain.
struct TrustDomainBundle {
  std::vector<std::string> x509_authorities;           // DER
  std::map<std::string, std::string> jwt_authorities;  // kid -> public key, PKIX DER
  std::uint64_t sequence = 0;
  std::uint32_t refresh_hint = 300;  // seconds
  bool operator==(const TrustDomainBundle &) const = default;
};

struct Trust {
  std::map<std::string, TrustDomainBundle, std::less<>> bundles;  // by trust domain
  std::vector<std::string> crls;                                  // DER
  bool operator==(const Trust &) const = default;
};

struct SourceFailure {
  std::string message;  // one line: what is wrong and what to do
};

struct JwtSvid {
  std::string token;
  std::time_t not_after = 0;
};

// All calls come from one thread of the agent's, which may wait in them; news_fd() may be polled by
// it. A source must notice what changes on its own (files replaced, an upstream's new bundle).
class Source {
 public:
  virtual ~Source() = default;
  // For logs and status: "authority /etc/inlay/authority".
  virtual std::string name() const = 0;
  // A new SVID for `id` with its key, valid now. A source that does not choose when (files,
  // Workload API) gives the one it has.
  virtual tl::expected<X509Svid, SourceFailure> obtain(const SpiffeId &id) = 0;
  virtual tl::expected<Trust, SourceFailure> trust() = 0;
  virtual tl::expected<JwtSvid, SourceFailure> obtain_jwt(
      const SpiffeId &id, const std::vector<std::string> &audience) = 0;
  // Whether obtain() gives something new at any time (an authority), or only after news.
  virtual bool issues() const = 0;
  // Becomes readable when obtain() or trust() have something new; -1: there never is any. The
  // caller calls take_news() then.
  virtual int news_fd() const = 0;
  virtual void take_news() = 0;
};

}  // namespace inlay::identity::agent
