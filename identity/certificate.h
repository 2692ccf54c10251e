// Reading certificates: PEM and DER in, and their names and dates as text for messages. No file is
// touched. Everything parsed here belongs to library_context().
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"

namespace inlay::identity {

// What OpenSSL adds to this thread's error queue while one is alive is taken out again: libssl
// reads that queue to tell what happened to a connection.
class ErrorMark {
 public:
  ErrorMark() noexcept;
  ~ErrorMark();
  ErrorMark(const ErrorMark &) = delete;
  ErrorMark &operator=(const ErrorMark &) = delete;
};

// Exactly one certificate; null when it is none or something follows it.
X509Ptr certificate_from_der(std::span<const unsigned char> der);

// One or more in DER, each right behind the one before, as the SPIFFE Workload API has chains and
// bundles. The error is one line.
tl::expected<std::vector<X509Ptr>, std::string> certificates_from_der(std::string_view der);

// All CERTIFICATE blocks, in order; other blocks and text between blocks are skipped. The error is
// one line: a block that is damaged or cut short spoils the whole text, since half a bundle would
// be taken for a revocation of the other half. No block at all gives an empty vector.
tl::expected<std::vector<X509Ptr>, std::string> certificates_from_pem(std::string_view text);

// Seconds since the epoch; empty for a malformed time. Unlike timegm(), takes no lock of libc.
std::optional<std::time_t> to_time(const ASN1_TIME *time);
// "2026-01-31T23:59:59Z"
std::string time_text(std::time_t time);
// The subject as RFC 2253 writes it, control characters escaped, cut to a length fit for a log.
std::string subject_text(const X509 *certificate);
// `bytes` with everything outside printable ASCII escaped, cut to a length fit for a log.
std::string printable(std::string_view bytes);

std::string certificate_der(const X509 *certificate);  // "" when OpenSSL has no memory
// The serial number in lower-case hexadecimal, two digits for each byte.
std::string serial_text(const X509 *certificate);

// SHA-256 of the SubjectPublicKeyInfo as DER: names a key. All zero when OpenSSL has no memory.
std::array<std::uint8_t, 32> public_key_digest(const X509 *certificate);
std::array<std::uint8_t, 32> public_key_digest(const EVP_PKEY *key);

// What is wrong with the kind or size of a certificate's key, as an end of the sentence "its key
// is …"; empty when it is allowed: RSA of 2048 to 8192 bits, P-256, P-384.
std::string key_weakness(const X509 *certificate);
std::string key_weakness(const EVP_PKEY *key);
// The same for what its issuer signed it with: SHA-256, SHA-384 or SHA-512.
std::string signature_weakness(const X509 *certificate);

}  // namespace inlay::identity
