// Certificate signing requests (PKCS #10, RFC 2986): they carry a public key, and the proof that
// who sends it has the private half. Whatever else one asks for counts for nothing here.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/openssl.h"

namespace inlay::identity {

inline constexpr std::size_t kMaxCsrBytes = 16384;

// DER. The key of a request that is signed with it, of a kind that peers accept (key_weakness()).
// The error is one line.
tl::expected<PkeyPtr, std::string> public_key_of_csr(std::string_view der);

// DER, for nobody in particular; "" when OpenSSL cannot.
std::string make_csr(EVP_PKEY *key);

}  // namespace inlay::identity
