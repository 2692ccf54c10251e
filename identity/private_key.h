// Reading private keys.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/openssl.h"

namespace inlay::identity {

// PEM, PKCS#8 or the older kinds, unencrypted; other blocks before it are skipped. Never asks for a
// passphrase. The error is one line.
tl::expected<PkeyPtr, std::string> private_key_from_pem(std::string_view pem);

// PKCS#8 in DER, unencrypted, and nothing behind it. The error is one line.
tl::expected<PkeyPtr, std::string> private_key_from_der(std::string_view der);

// A key whose two halves do not belong together passes X509_check_private_key, which compares
// public halves only, and then fails in every handshake.
bool halves_match(EVP_PKEY *key);

}  // namespace inlay::identity
