// This workload's own X.509-SVID: certificate chain and private key.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"
#include "identity/spiffe_id.h"

namespace inlay::identity {

struct X509Svid {
  SpiffeId id;
  std::vector<X509Ptr> chain;  // leaf first
  PkeyPtr key;                 // matches the leaf
  std::time_t not_before = 0;  // of the leaf, seconds since the epoch
  std::time_t not_after = 0;
};

struct SvidError {
  std::string message;  // one line: what is wrong
};

// Checks that the leaf is a well-formed X.509-SVID (the leaf rules of verify.h), that the key is
// its key, and the kinds of key allowed. Does not check dates or the path to a bundle.
tl::expected<X509Svid, SvidError> parse_svid(std::string_view chain_pem, std::string_view key_pem);

// The same of a chain in DER, leaf first, for a key that is elsewhere: `key` is null and for the
// caller to set.
tl::expected<X509Svid, SvidError> parse_svid_without_key(const std::vector<std::string> &chain_der);

// Another reference to the same certificates and key.
X509Svid share(const X509Svid &svid);

// As parse_svid(), from DER as the SPIFFE Workload API has it: one certificate after the other,
// the key as PKCS#8.
tl::expected<X509Svid, SvidError> parse_svid_der(std::string_view chain, std::string_view key);

}  // namespace inlay::identity
