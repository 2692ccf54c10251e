// The X.509 extensions that the X.509-SVID rules speak of, read from one certificate.
#pragma once

#include <openssl/x509v3.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"

namespace inlay::identity {

// OpenSSL fills in its view of the extensions on first use, under the certificate's own lock, and
// therefore takes a mutable pointer.
inline X509 *mutable_view(const X509 *certificate) { return const_cast<X509 *>(certificate); }

// False when an extension OpenSSL knows does not parse or occurs twice (RFC 5280 §4.2).
bool extensions_well_formed(const X509 *certificate);

bool is_critical(const X509 *certificate, int nid);

// URI SANs byte for byte, embedded NULs and all; empty without the extension. The error is one
// line.
tl::expected<std::vector<std::string>, std::string> uri_names(const X509 *certificate);

// KU_ and XKU_ bits of x509v3.h; empty without the extension.
std::optional<std::uint32_t> key_usage(const X509 *certificate);
std::optional<std::uint32_t> extended_key_usage(const X509 *certificate);
// Both clientAuth and serverAuth. anyExtendedKeyUsage is neither.
bool for_both_roles(std::uint32_t extended_key_usage);

}  // namespace inlay::identity
