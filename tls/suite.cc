#include "tls/suite.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

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
  // Not __builtin_cpu_supports: it brings a constructor of libgcc's.
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_AES) != 0 &&
         (ecx & bit_PCLMUL) != 0;
#else
  return true;
#endif
}

}  // namespace inlay::tls
