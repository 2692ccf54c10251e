#include "identity/openssl.h"

#include <openssl/crypto.h>

namespace inlay::identity {

OSSL_LIB_CTX *library_context() noexcept {
  static OSSL_LIB_CTX *const context = [] {
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, nullptr);
    return OSSL_LIB_CTX_new();
  }();
  return context;
}

}  // namespace inlay::identity
