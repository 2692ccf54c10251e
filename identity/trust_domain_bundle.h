// What there is to know of one trust domain: who may sign its X.509-SVIDs and its JWT-SVIDs, as
// SPIFFE's bundle documents have it (SPIFFE Trust Domain and Bundle §4). Nothing in it is parsed;
// bundle.h has the half that verification needs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/bundle.h"

namespace inlay::identity {

// By kid (RFC 7517 §4.5): a public key as PKIX DER (SubjectPublicKeyInfo).
using JwtAuthorities = std::map<std::string, std::string, std::less<>>;

struct TrustDomainBundle {
  std::vector<std::string> x509_authorities;  // DER
  JwtAuthorities jwt_authorities;
  std::uint64_t sequence = 0;
  std::uint32_t refresh_hint = 300;  // seconds
  bool operator==(const TrustDomainBundle &) const = default;
};

// PEM or SPIFFE JSON, as parse_bundle() takes them, with the JWT authorities too. Keys of a use or
// kind that is unknown are ignored; a jwt-svid key without a kid, with one that occurs twice, or
// that cannot be read spoils the whole document.
tl::expected<TrustDomainBundle, BundleError> parse_trust_domain_bundle(std::string_view text);

// The same from a JWK Set of signing keys alone, with or without their "use": what the Workload
// API's FetchJWTBundles gives.
tl::expected<JwtAuthorities, BundleError> parse_jwt_authorities(std::string_view text);

// SPIFFE's bundle document, and the JWK Set of the Workload API (RFC 7517, without SPIFFE's names).
// A key that cannot be written as JWK is left out.
std::string bundle_document(const TrustDomainBundle &bundle);
std::string jwk_set(const JwtAuthorities &authorities);

}  // namespace inlay::identity
