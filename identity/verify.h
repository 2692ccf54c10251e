// Verification of a peer's X.509-SVID, clause by clause (X509-SVID §5; RFC 5280 §6).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/bundle.h"
#include "identity/spiffe_id.h"

namespace inlay::identity {

enum class VerifyError : std::uint8_t {
  no_certificate,
  malformed,
  no_uri_san,
  several_uri_sans,
  not_a_spiffe_id,
  root_path,  // the leaf's SPIFFE ID names a trust domain, not a workload
  leaf_is_ca,
  key_usage_missing,   // absent or not critical
  key_usage_wrong,     // no digitalSignature, or keyCertSign or cRLSign set
  extended_key_usage,  // present without both clientAuth and serverAuth
  expired,
  not_yet_valid,
  unknown_trust_domain,  // no bundle for the leaf's trust domain
  untrusted,             // no RFC 5280 path to an authority of that bundle
  intermediate,          // an intermediate is no CA, breaks pathLen or name constraints
  weak,                  // RSA below 2048, a curve other than P-256/P-384, SHA-1, unknown key
  revoked,               // a CRL of the bundle names it, or an authority on its path
  crl_stale,             // the CRL that could is past its nextUpdate (Bundle::accept_stale_crls)
  chain_too_long,        // more certificates or bytes than the limits below
  internal,
};

// One sentence for a person, without a final dot.
std::string_view sentence(VerifyError error) noexcept;

struct VerifyFailure {
  VerifyError error;
  std::string detail;  // may name the certificate's subject, ID or dates; one line; never secret
};

// The most a peer may send; more is chain_too_long, before any of it is looked at. Duplicates
// count.
inline constexpr int kMaxChainCertificates = 8;
inline constexpr std::size_t kMaxChainBytes = 32768;  // all certificates, as DER
inline constexpr std::time_t kNotBeforeSlack = 60;    // seconds, for clock skew

// What a path rested on: enough to judge an open session again when bundles or CRLs change.
struct PathRecord {
  std::array<std::uint8_t, 32> authority{};  // public_key_digest() of the bundle's certificate
  std::array<std::uint8_t, 32> issuer{};     // SHA-256 of the name of the leaf's issuer, as DER
  std::array<std::uint8_t, 20> serial{};     // the leaf's number (RFC 5280 §4.1.2.2), big-endian
  std::uint8_t serial_length = 0;
  bool operator==(const PathRecord &) const = default;
};

// `chain`: leaf first, the rest in any order, duplicates allowed. `now`: seconds since the epoch.
// The bundle of the leaf's own trust domain is the only one looked at, and any certificate in it,
// root or not, may end the path. Thread-safe.
tl::expected<SpiffeId, VerifyFailure> verify_x509_svid(const STACK_OF(X509) * chain,
                                                       const BundleSet &bundles, std::time_t now,
                                                       PathRecord *record = nullptr);

// Whether what a peer of `bundle`'s trust domain was verified by still stands: `untrusted` when the
// authority has left the bundle, `revoked` when a CRL names the leaf. Dates do not count: an SVID
// that expires alone ends no session. Throws std::bad_alloc when that cannot be told.
std::optional<VerifyError> judge_again(const PathRecord &record, const Bundle &bundle);

// The rules for the leaf alone (X509-SVID §4 and §5.2): all that can be said without a bundle and
// without the time.
tl::expected<SpiffeId, VerifyFailure> check_leaf(const X509 *leaf);

// The leaf's SPIFFE ID without judging anything else: for logs and for `inlay doctor`.
tl::expected<SpiffeId, VerifyFailure> spiffe_id_of(const X509 *leaf);

}  // namespace inlay::identity
