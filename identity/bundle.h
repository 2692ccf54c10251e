// Trust bundles: the X.509 authorities of one trust domain each (SPIFFE Trust Domain and Bundle
// §4).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"

namespace inlay::identity {

struct Bundle {
  std::vector<X509Ptr> authorities;  // empty means: everything of this trust domain is rejected
  std::uint64_t sequence = 0;        // spiffe_sequence; 0 when absent or PEM
  std::vector<X509CrlPtr> crls;      // complete ones, each signed by one of the authorities
  // Of issuers that are not in the bundle: whether one counts is seen when a chain brings its issuer.
  std::vector<X509CrlPtr> crls_of_intermediates;
  bool accept_stale_crls =
      false;  // past their nextUpdate; else they refuse what their issuer signed
};

struct BundleError {
  std::string message;  // one line: what is wrong, without the file's name
};

// Detects PEM or SPIFFE JSON (JWKS) by content. Tolerates what PEM files in the wild have: CRLF,
// trailing blank lines, text between blocks. Zero certificates in PEM is an error; an empty JSON
// "keys" array is a valid empty bundle.
tl::expected<Bundle, BundleError> parse_bundle(std::string_view text);

// Whether `text` is to be read as JSON: no PEM file starts with a brace but for text before its
// first block, which then is no JSON.
bool looks_like_json(std::string_view text);

// Trust domain -> bundle. A chain is verified against the bundle of its own trust domain only.
using BundleSet = std::map<std::string, Bundle, std::less<>>;

}  // namespace inlay::identity
