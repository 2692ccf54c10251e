#include "tls/post_handshake.h"

#include <algorithm>
#include <cstddef>

namespace inlay::tls {
namespace {

constexpr std::uint8_t kNewSessionTicket = 4;  // HandshakeType (§4)
constexpr std::uint8_t kKeyUpdate = 24;
// The longest NewSessionTicket its fields allow (§4.6.1): lifetime, age_add, nonce<0..255>,
// ticket<1..2^16-1>, extensions<0..2^16-2>.
constexpr std::uint32_t kMaxTicket = 4 + 4 + (1 + 255) + (2 + 65535) + (2 + 65534);

constexpr std::uint8_t kUpdateNotRequested[] = {kKeyUpdate, 0, 0, 1, 0};
constexpr std::uint8_t kUpdateRequested[] = {kKeyUpdate, 0, 0, 1, 1};

PostHandshakeEvent violation(PostHandshake &state, Alert alert) {
  state.alert = alert;
  return PostHandshakeEvent::violation;
}

}  // namespace

PostHandshakeEvent PostHandshake::consume(std::span<const std::uint8_t> plaintext,
                                          bool we_are_client) noexcept {
  // A handshake record must not be empty (§5.1). Counted per record, so that a ticket cut into
  // one-byte records is a flood as well.
  if (plaintext.empty() || !empty_seen()) return violation(*this, Alert::unexpected_message);

  std::size_t at = 0;
  while (at < plaintext.size()) {
    if (header_length < sizeof header) {
      header[header_length++] = plaintext[at++];
      if (header_length < sizeof header) continue;
      remaining = static_cast<std::uint32_t>(header[1]) << 16 |
                  static_cast<std::uint32_t>(header[2]) << 8 | header[3];
      if (header[0] == kKeyUpdate) {
        if (remaining != 1) return violation(*this, Alert::decode_error);
      } else if (header[0] != kNewSessionTicket || !we_are_client) {
        // Renegotiation (ClientHello, HelloRequest) and CertificateRequest end here: inlay never
        // offers post_handshake_auth (§4.6.2).
        return violation(*this, Alert::unexpected_message);
      } else if (remaining > kMaxTicket) {
        return violation(*this, Alert::decode_error);
      }
    }
    const std::size_t taken = std::min<std::size_t>(remaining, plaintext.size() - at);
    const std::span<const std::uint8_t> body = plaintext.subspan(at, taken);
    at += taken;
    remaining -= static_cast<std::uint32_t>(taken);
    if (remaining != 0) break;
    header_length = 0;
    if (header[0] != kKeyUpdate) continue;
    // Messages must not span key changes (§5.1): nothing may follow under the old key.
    if (at != plaintext.size()) return violation(*this, Alert::unexpected_message);
    if (body[0] > 1) return violation(*this, Alert::illegal_parameter);
    return body[0] == 1 ? PostHandshakeEvent::key_update_requested : PostHandshakeEvent::key_update;
  }
  return PostHandshakeEvent::need_more;
}

std::span<const std::uint8_t> key_update_message(bool request_update) noexcept {
  if (request_update) return kUpdateRequested;
  return kUpdateNotRequested;
}

}  // namespace inlay::tls
