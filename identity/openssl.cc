#include "identity/openssl.h"

#include <openssl/crypto.h>

#include <atomic>

namespace inlay::identity {

OSSL_LIB_CTX *library_context() noexcept {
  static constinit std::atomic<OSSL_LIB_CTX *> context{nullptr};
  OSSL_LIB_CTX *known = context.load(std::memory_order_acquire);
  if (known != nullptr) return known;
  OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, nullptr);
  OSSL_LIB_CTX *const made = OSSL_LIB_CTX_new();
  if (made == nullptr) return nullptr;  // the next caller may have memory
  if (context.compare_exchange_strong(known, made, std::memory_order_acq_rel)) return made;
  OSSL_LIB_CTX_free(made);
  return known;
}

}  // namespace inlay::identity
