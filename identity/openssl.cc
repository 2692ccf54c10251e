#include "identity/openssl.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <atomic>

namespace inlay::identity {
namespace {

// The table of every algorithm's names takes a quarter of what `inlay run` does, and all that needs
// it is the verification of a certificate, which looks its signature's digest up by number.
void initialise() noexcept {
  OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT |
                          OPENSSL_INIT_NO_ADD_ALL_CIPHERS | OPENSSL_INIT_NO_ADD_ALL_DIGESTS,
                      nullptr);
  for (const EVP_MD *digest : {EVP_sha256(), EVP_sha384(), EVP_sha512()}) EVP_add_digest(digest);
}

}  // namespace

OSSL_LIB_CTX *library_context() noexcept {
  static constinit std::atomic<OSSL_LIB_CTX *> context{nullptr};
  OSSL_LIB_CTX *known = context.load(std::memory_order_acquire);
  if (known != nullptr) return known;
  initialise();
  OSSL_LIB_CTX *const made = OSSL_LIB_CTX_new();
  if (made == nullptr) return nullptr;  // the next caller may have memory
  if (context.compare_exchange_strong(known, made, std::memory_order_acq_rel)) return made;
  OSSL_LIB_CTX_free(made);
  return known;
}

}  // namespace inlay::identity
