// The TLS 1.3 cipher suites inlay speaks (RFC 8446 §B.4) and their AEAD limits (§5.5).
#pragma once

#include <cstddef>
#include <cstdint>

namespace inlay::tls {

enum class Suite : std::uint16_t {
  none = 0,
  aes_128_gcm_sha256 = 0x1301,
  aes_256_gcm_sha384 = 0x1302,
  chacha20_poly1305_sha256 = 0x1303,
};

inline constexpr std::size_t kIvLength = 12;
inline constexpr std::size_t kTagLength = 16;
inline constexpr std::size_t kMaxKeyLength = 32;
inline constexpr std::size_t kMaxSecretLength = 48;

std::size_t key_length(Suite suite) noexcept;
std::size_t hash_length(Suite suite) noexcept;
// Records one key may protect before it must be updated: 2^24 for AES-GCM (RFC 8446 §5.5 allows
// 2^24.5), practically none for ChaCha20-Poly1305.
std::uint64_t record_limit(Suite suite) noexcept;
// True when the processor has AES and carry-less multiplication instructions.
bool processor_has_aes() noexcept;

}  // namespace inlay::tls
