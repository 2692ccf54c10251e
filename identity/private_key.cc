#include "identity/private_key.h"

#include <openssl/pem.h>

#include <climits>
#include <memory>

#include "identity/certificate.h"

namespace inlay::identity {
namespace {

using PkeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, OpensslDelete<EVP_PKEY_CTX_free>>;

// OpenSSL would ask on the terminal of whoever is being protected.
int refuse_passphrase(char *, int, int, void *asked) {
  *static_cast<bool *>(asked) = true;
  return -1;
}

}  // namespace

tl::expected<PkeyPtr, std::string> private_key_from_pem(std::string_view pem) {
  const ErrorMark mark;
  if (pem.size() > INT_MAX) return tl::unexpected(std::string("the key is too large"));
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  bool encrypted = false;
  PkeyPtr key(bio ? PEM_read_bio_PrivateKey_ex(bio.get(), nullptr, refuse_passphrase, &encrypted,
                                               library_context(), nullptr)
                  : nullptr);
  if (key) return key;
  // What the older format was encrypted with is not looked at: there is no passphrase to give.
  encrypted = encrypted || pem.find("\nProc-Type: 4,ENCRYPTED") != std::string_view::npos;
  return tl::unexpected(std::string(encrypted
                                        ? "the key is encrypted; store it without a passphrase"
                                        : "the key is not a private key in PEM"));
}

tl::expected<PkeyPtr, std::string> private_key_from_der(std::string_view der) {
  const ErrorMark mark;
  const auto *position = reinterpret_cast<const unsigned char *>(der.data());
  const unsigned char *const end = position + der.size();
  const std::unique_ptr<PKCS8_PRIV_KEY_INFO, OpensslDelete<PKCS8_PRIV_KEY_INFO_free>> info(
      d2i_PKCS8_PRIV_KEY_INFO(nullptr, &position, static_cast<long>(der.size())));
  PkeyPtr key(info && position == end ? EVP_PKCS82PKEY_ex(info.get(), library_context(), nullptr)
                                      : nullptr);
  if (key) return key;
  return tl::unexpected(std::string("the key is not a private key in PKCS#8 DER"));
}

bool halves_match(EVP_PKEY *key) {
  const ErrorMark mark;
  const PkeyContextPtr context(EVP_PKEY_CTX_new_from_pkey(library_context(), key, nullptr));
  return context && EVP_PKEY_pairwise_check(context.get()) == 1;
}

}  // namespace inlay::identity
