// Alerts (RFC 8446 §6).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace inlay::tls {

enum class Alert : std::uint8_t {
  close_notify = 0,
  unexpected_message = 10,
  bad_record_mac = 20,
  record_overflow = 22,
  handshake_failure = 40,
  bad_certificate = 42,
  unsupported_certificate = 43,
  certificate_revoked = 44,
  certificate_expired = 45,
  certificate_unknown = 46,
  illegal_parameter = 47,
  unknown_ca = 48,
  access_denied = 49,
  decode_error = 50,
  decrypt_error = 51,
  protocol_version = 70,
  internal_error = 80,
  user_canceled = 90,
  missing_extension = 109,
  certificate_required = 116,
  no_application_protocol = 120,
};

// "access_denied"; "unknown_alert" for values not listed.
std::string_view name(Alert alert) noexcept;
// The two bytes of an alert message; level is warning for close_notify and user_canceled.
std::array<std::uint8_t, 2> encode(Alert alert) noexcept;
// Empty unless the message is exactly two bytes (§6).
std::optional<Alert> decode(std::span<const std::uint8_t> message) noexcept;

}  // namespace inlay::tls
