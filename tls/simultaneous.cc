#include "tls/simultaneous.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <array>
#include <cstring>

#include "identity/openssl.h"

namespace inlay::tls {
namespace {

constexpr std::uint8_t kClientHello = 1;  // RFC 8446 §4
constexpr std::size_t kMessageHeader = 4;
constexpr std::size_t kVersionLength = 2;
constexpr std::size_t kRandomLength = 32;  // §4.1.2

// The random of a record that is one whole ClientHello; empty otherwise.
std::span<const std::uint8_t> random_of(std::span<const std::uint8_t> record) noexcept {
  const auto header = parse_header(record);
  if (!header || header->type != ContentType::handshake ||
      record.size() != kHeaderLength + header->length)
    return {};
  const auto message = record.subspan(kHeaderLength);
  if (message.size() < kMessageHeader + kVersionLength + kRandomLength ||
      message[0] != kClientHello)
    return {};
  const std::size_t length =
      std::size_t{message[1]} << 16 | std::size_t{message[2]} << 8 | message[3];
  if (length != message.size() - kMessageHeader) return {};
  return message.subspan(kMessageHeader + kVersionLength, kRandomLength);
}

}  // namespace

Meeting meet(std::span<const std::uint8_t> ours, std::span<const std::uint8_t> theirs) noexcept {
  const auto own = random_of(ours), other = random_of(theirs);
  if (own.empty() || other.empty()) return Meeting::none;
  const int order = std::memcmp(own.data(), other.data(), kRandomLength);
  if (order == 0) return Meeting::mirrored;
  return order > 0 ? Meeting::as_client : Meeting::as_server;
}

bool make_own_keys(TrafficState &send, TrafficState &receive) noexcept {
  const Suite suite =
      processor_has_aes() ? Suite::aes_128_gcm_sha256 : Suite::chacha20_poly1305_sha256;
  std::array<std::uint8_t, kMaxSecretLength> secret;
  const auto used = std::span(secret).first(hash_length(suite));
  const bool made =
      RAND_priv_bytes_ex(identity::library_context(), used.data(), used.size(), 0) == 1 &&
      derive(send, suite, used);
  OPENSSL_cleanse(secret.data(), secret.size());
  if (made) receive = send;
  return made;
}

}  // namespace inlay::tls
