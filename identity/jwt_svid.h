// JWT-SVIDs: issuing, and validating what somebody presents (SPIFFE JWT-SVID §3 to §5; RFC 7515,
// RFC 7519, RFC 7518). Compact serialisation only; ES, RS and PS with SHA-256, 384 and 512 only.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/spiffe_id.h"
#include "identity/trust_domain_bundle.h"

namespace inlay::identity {

inline constexpr std::size_t kMaxJwtBytes = 16384;
inline constexpr std::time_t kJwtLifetime = 300;  // seconds; what an authority issues
inline constexpr std::time_t kJwtSlack = 60;      // seconds, for nbf and iat of other clocks

enum class JwtError : std::uint8_t {
  malformed,   // not three base64url parts of JSON objects, or a member of a wrong kind
  algorithm,   // "none", HMAC, and all that is not of the nine
  wrong_type,  // typ is neither JWT nor JOSE
  critical,    // a "crit" header: nothing in it is understood
  no_subject,  // missing, or no SPIFFE ID of a workload
  no_audience,
  no_expiry,
  expired,
  not_yet_valid,
  wrong_audience,
  unknown_trust_domain,  // no JWT authorities for the subject's
  unknown_key,           // no kid, or none that its trust domain has
  bad_signature,
  internal,
};

// One sentence for a person, without a final dot.
std::string_view sentence(JwtError error) noexcept;

struct JwtFailure {
  JwtError error{};
  std::string detail;  // one line; never a part of the token that is secret
};

struct JwtClaims {
  SpiffeId subject;
  std::vector<std::string> audience;  // never empty
  std::time_t expires = 0;            // seconds since the epoch
  std::string json;                   // all claims, the JSON object as it was signed
};

// What is asked for the keys of a trust domain; null when it has none here.
using JwtAuthoritiesOf = std::function<const JwtAuthorities *(std::string_view trust_domain)>;

// All of it: form, algorithm, the signature by a key of the subject's own trust domain, expiry,
// and that `audience` is among the token's.
tl::expected<JwtClaims, JwtFailure> validate_jwt_svid(std::string_view token,
                                                      std::string_view audience,
                                                      const JwtAuthoritiesOf &authorities,
                                                      std::time_t now);

// The claims of a token that its giver is trusted for: form alone, neither signature nor time.
tl::expected<JwtClaims, JwtFailure> read_jwt_svid(std::string_view token);

// ES256, with `key` on P-256. The kid is jwt_key_id(key).
tl::expected<std::string, JwtFailure> issue_jwt_svid(const SpiffeId &id,
                                                     std::span<const std::string> audience,
                                                     EVP_PKEY *key, std::time_t now,
                                                     std::time_t lifetime);

// A name for a key that others arrive at too: the thumbprint of RFC 7638 would need JSON; this is
// the first 16 bytes of the SHA-256 of its PKIX DER in base64url.
std::string jwt_key_id(const EVP_PKEY *key);

}  // namespace inlay::identity
