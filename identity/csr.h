// Certificate signing requests (PKCS #10, RFC 2986): they carry a public key, and the proof that
// who sends it has the private half. What else one asks for is given by none; EST (RFC 7030)
// refuses who asks for more than there is.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"

namespace inlay::identity {

inline constexpr std::size_t kMaxCsrBytes = 16384;

// DER. The key of a request that is signed with it, of a kind that peers accept (key_weakness()).
// The error is one line.
tl::expected<PkeyPtr, std::string> public_key_of_csr(std::string_view der);

// What a request asks for beside its key.
struct CsrWishes {
  std::string subject;            // the Name as DER
  std::vector<std::string> uris;  // URI SANs
  bool other_names = false;       // SANs of other kinds
  bool authority = false;         // basicConstraints with cA, or the key usages of an authority
};
// Of one that public_key_of_csr() takes. The error is one line.
tl::expected<CsrWishes, std::string> wishes_of_csr(std::string_view der);
// The subject of nobody, as DER.
inline constexpr std::string_view kEmptySubject{"\x30\x00", 2};

// DER, for nobody in particular, or with a URI SAN; "" when OpenSSL cannot.
std::string make_csr(EVP_PKEY *key, const std::string &uri = "");
// With the subject and the SANs of that certificate (RFC 7030 §4.2.2).
std::string make_csr_like(EVP_PKEY *key, const X509 *certificate);

}  // namespace inlay::identity
