// Where the agent's SVIDs come from: one interface, a file for each kind (authority_source,
// files_source, workload_api_source).
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <map>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/svid.h"
#include "identity/trust_domain_bundle.h"

namespace inlay::identity::agent {

// An entry that the source decides on, not the configuration (granted_entry.h).
struct GrantedEntry {
  std::string id;  // the source's name of it
  std::string spiffe_id;
  std::vector<std::string> selectors;  // "user=redis": keys as in the configuration
  std::string policy;                  // TOML; "" = none
  std::string hint;
  bool workload_api = true;
  bool refuse_traced = false;
  bool operator==(const GrantedEntry &) const = default;
};

struct Trust {
  std::map<std::string, TrustDomainBundle, std::less<>> bundles;  // by trust domain
  std::vector<std::string> crls;                                  // DER
  // Authorities of the bundles that are about to leave them, by public_key_digest(): what rests on
  // them is good, and to be replaced at once.
  std::vector<std::array<std::uint8_t, 32>> tainted;
  std::vector<GrantedEntry> granted;
  bool operator==(const Trust &) const = default;
};

struct SourceFailure {
  std::string message;  // one line: what is wrong and what to do
};

struct JwtSvid {
  std::string token;
  std::time_t not_after = 0;
};

// One call at a time, which may wait; news_fd() is polled meanwhile. A source must notice what
// changes on its own (files replaced, an upstream's new bundle).
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
  // Whether obtain() and trust() may take long: then nobody calls them before the agent listens.
  virtual bool waits() const { return false; }
  // Readable when there may be news; -1: there never are any.
  virtual int news_fd() const = 0;
  // Makes news_fd() wait for the next. True when obtain() or trust() have something new.
  virtual bool take_news() = 0;
};

}  // namespace inlay::identity::agent
