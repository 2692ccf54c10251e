// A private key that is elsewhere: OpenSSL gets an EVP_PKEY with the public half only, made by a
// provider of ours whose signatures come from whoever the thread has named as its signatory.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <tl/expected.hpp>
#include <vector>

#include "identity/openssl.h"

namespace inlay::tls {

// What is to be signed, as TLS 1.3 has it (RFC 8446 §4.4.3).
struct SignatureRequest {
  std::uint16_t scheme = 0;  // SignatureScheme (§4.2.3)
  std::vector<std::uint8_t> input;
};

// Called inside OpenSSL, on its caller's stack. Must not throw. Empty when there is no signature.
class Signatory {
 public:
  virtual std::optional<std::vector<std::uint8_t>> sign(SignatureRequest request) noexcept = 0;

 protected:
  ~Signatory() = default;
};

// While it lives, this thread's remote keys sign with `signatory`. Without one they cannot.
class SigningScope {
 public:
  explicit SigningScope(Signatory *signatory) noexcept;
  ~SigningScope();
  SigningScope(const SigningScope &) = delete;
  SigningScope &operator=(const SigningScope &) = delete;

 private:
  Signatory *before_;
};

// A key for SSL_CTX_use_PrivateKey: P-256, P-384 or RSA. Null when `public_key` is of another kind,
// or without memory. Thread-safe.
identity::PkeyPtr make_remote_key(const EVP_PKEY *public_key) noexcept;

// Whether `key` is one of make_remote_key's.
bool is_remote_key(const EVP_PKEY *key) noexcept;

}  // namespace inlay::tls
