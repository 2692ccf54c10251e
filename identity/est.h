// What EST's messages are made of (RFC 7030 §4): certificates in a "certs-only" PKCS #7 (RFC 5652
// §5: SignedData without content and signers), and base64 with line breaks.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"

namespace inlay::identity {

inline constexpr std::size_t kMaxEstBytes = std::size_t{64} << 10;  // of a message, in base64
inline constexpr std::size_t kMaxEstCertificates = 64;

// DER; "" when OpenSSL cannot, or a certificate is none.
std::string certs_only(const std::vector<std::string> &certificates_der);
// At least one certificate, in the order they are in, which need not mean anything (it is a SET).
// What such a message has no use for, content or signers, refuses it. The error is one line.
tl::expected<std::vector<X509Ptr>, std::string> certificates_of(std::string_view certs_only_der);

// RFC 7030 §4.1.3 and RFC 8951 §3: lines of 64 characters; white space anywhere when it is read.
std::string est_base64(std::string_view bytes);
// The error is one line. At most kMaxEstBytes of text.
tl::expected<std::string, std::string> from_est_base64(std::string_view text);

}  // namespace inlay::identity
