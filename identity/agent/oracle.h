// What the agent signs with a workload's key: the CertificateVerify of a TLS 1.3 handshake and
// nothing else. Everything but the hash in it is fixed by RFC 8446 §4.4.3, so a signature is of use
// in one handshake alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/agent/entry.h"
#include "identity/openssl.h"

namespace inlay::identity::agent {

// The role the signer has, "client" or "server", or why `input` is no such thing.
tl::expected<std::string_view, Refused> role_of_certificate_verify(std::uint32_t hash_length,
                                                                   std::string_view input);

// As TLS has it: ECDSA as DER, RSA as PSS. `scheme` (RFC 8446 §4.2.3) must be one the key can do.
tl::expected<std::string, Refused> sign_certificate_verify(EVP_PKEY *key, std::uint16_t scheme,
                                                           std::string_view input);

}  // namespace inlay::identity::agent
