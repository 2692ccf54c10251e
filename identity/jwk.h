// Public keys as JSON Web Keys (RFC 7517; RFC 7518 §6): EC on P-256, P-384, P-521, and RSA.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/openssl.h"

namespace inlay::identity {

// Null for a kind or curve nobody here can verify with. The error says what is wrong, as the end of
// "keys[3] …".
tl::expected<PkeyPtr, std::string> public_key_from_jwk(const nlohmann::json &key);
// An empty object for what has no JWK here.
nlohmann::json jwk_of(const EVP_PKEY *key);

// PKIX, SubjectPublicKeyInfo.
std::string public_key_der(const EVP_PKEY *key);
PkeyPtr public_key_from_der(std::string_view der);  // null when it is none

// "P-256", "P-384", "P-521"; "" for anything but an EC key on one of them.
std::string_view jwk_curve(const EVP_PKEY *key);
inline constexpr int kMinRsaBits = 2048;
inline constexpr int kMaxRsaBits = 8192;

}  // namespace inlay::identity
