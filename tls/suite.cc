#include "tls/suite.h"

namespace inlay::tls {

std::size_t key_length(Suite suite) noexcept {
  return suite == Suite::aes_128_gcm_sha256 ? 16 : 32;
}

std::size_t hash_length(Suite suite) noexcept {
  return suite == Suite::aes_256_gcm_sha384 ? 48 : 32;
}

std::uint64_t record_limit(Suite suite) noexcept {
  return suite == Suite::chacha20_poly1305_sha256 ? UINT64_MAX : std::uint64_t{1} << 24;
}

bool processor_has_aes() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#else
  return true;
#endif
}

}  // namespace inlay::tls
