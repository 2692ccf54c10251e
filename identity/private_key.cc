#include "identity/private_key.h"

#include <openssl/pem.h>

#include <climits>

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
  return tl::unexpected(std::string(encrypted
                                        ? "the key is encrypted; store it without a passphrase"
                                        : "the key is not a private key in PEM"));
}

bool halves_match(EVP_PKEY *key) {
  const ErrorMark mark;
  const PkeyContextPtr context(EVP_PKEY_CTX_new_from_pkey(library_context(), key, nullptr));
  return context && EVP_PKEY_pairwise_check(context.get()) == 1;
}

}  // namespace inlay::identity
