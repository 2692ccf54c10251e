#include "identity/ca/token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "identity/base64.h"
#include "identity/openssl.h"

namespace inlay::identity::ca {

NewToken make_token(const std::array<std::uint8_t, 32> &pin) {
  std::array<std::uint8_t, 32> secret{};
  if (RAND_priv_bytes_ex(library_context(), secret.data(), secret.size(), 0) != 1) return {};
  std::string text = to_base64url(secret);
  OPENSSL_cleanse(secret.data(), secret.size());
  NewToken token{"inlay1" + to_base64url(pin) + text, secret_digest(text)};
  OPENSSL_cleanse(text.data(), text.size());
  return token;
}

std::string secret_digest(std::string_view secret) {
  std::string digest(32, '\0');
  EVP_Q_digest(library_context(), "SHA256", nullptr, secret.data(), secret.size(),
               reinterpret_cast<unsigned char *>(digest.data()), nullptr);
  return digest;
}

}  // namespace inlay::identity::ca
