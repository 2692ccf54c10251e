// Verification of a peer's X.509-SVID, clause by clause (X509-SVID §5; RFC 5280 §6).
#pragma once

#include <ctime>
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
  root_path,             // the leaf's SPIFFE ID names a trust domain, not a workload
  leaf_is_ca,
  key_usage_missing,     // absent or not critical
  key_usage_wrong,       // no digitalSignature, or keyCertSign or cRLSign set
  extended_key_usage,    // present without both clientAuth and serverAuth
  expired,
  not_yet_valid,
  unknown_trust_domain,  // no bundle for the leaf's trust domain
  untrusted,             // no RFC 5280 path to an authority of that bundle
  intermediate,          // an intermediate is no CA, breaks pathLen or name constraints
  weak,                  // RSA below 2048, a curve other than P-256/P-384, SHA-1, unknown key
  chain_too_long,        // more certificates or bytes than the limits in verify.cc
  internal,
};

// One sentence for a person, without a final dot.
std::string_view sentence(VerifyError error) noexcept;

struct VerifyFailure {
  VerifyError error;
  std::string detail;  // may name the certificate's subject, ID or dates; one line; never secret
};

// `chain`: leaf first, as the peer sent it. `now`: seconds since the epoch.
// Not-before slack: 60 s, for clock skew. Thread-safe.
tl::expected<SpiffeId, VerifyFailure> verify_x509_svid(const STACK_OF(X509) *chain,
                                                       const BundleSet &bundles, std::time_t now);

// The leaf's SPIFFE ID without judging anything else: for logs and for `inlay doctor`.
tl::expected<SpiffeId, VerifyFailure> spiffe_id_of(const X509 *leaf);

}  // namespace inlay::identity
