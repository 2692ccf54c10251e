// What a SPIFFE Workload API sends, checked and taken apart. One bad element spoils its message:
// half a state would look like a revocation of the other half (SPIFFE_Workload_API.md §4.4, §4.5).
#pragma once

#include <workload.pb.h>

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/source.h"

namespace inlay::identity::agent {

struct X509State {
  std::vector<X509Svid> svids;  // none in FetchX509Bundles' answers
  Trust trust;                  // with x509_authorities alone
};

// The errors are one line each. Dates and paths are for Identities to judge.
tl::expected<X509State, std::string> read_message(const X509SVIDResponse &response,
                                                  std::string_view trust_domain);
tl::expected<X509State, std::string> read_message(const X509BundlesResponse &response,
                                                  std::string_view trust_domain);
// With jwt_authorities alone.
tl::expected<Trust, std::string> read_message(const JWTBundlesResponse &response,
                                              std::string_view trust_domain);

}  // namespace inlay::identity::agent
