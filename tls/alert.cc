#include "tls/alert.h"

namespace inlay::tls {

std::string_view name(Alert alert) noexcept {
  switch (alert) {
    case Alert::close_notify:
      return "close_notify";
    case Alert::unexpected_message:
      return "unexpected_message";
    case Alert::bad_record_mac:
      return "bad_record_mac";
    case Alert::record_overflow:
      return "record_overflow";
    case Alert::handshake_failure:
      return "handshake_failure";
    case Alert::bad_certificate:
      return "bad_certificate";
    case Alert::unsupported_certificate:
      return "unsupported_certificate";
    case Alert::certificate_revoked:
      return "certificate_revoked";
    case Alert::certificate_expired:
      return "certificate_expired";
    case Alert::certificate_unknown:
      return "certificate_unknown";
    case Alert::illegal_parameter:
      return "illegal_parameter";
    case Alert::unknown_ca:
      return "unknown_ca";
    case Alert::access_denied:
      return "access_denied";
    case Alert::decode_error:
      return "decode_error";
    case Alert::decrypt_error:
      return "decrypt_error";
    case Alert::protocol_version:
      return "protocol_version";
    case Alert::internal_error:
      return "internal_error";
    case Alert::user_canceled:
      return "user_canceled";
    case Alert::missing_extension:
      return "missing_extension";
    case Alert::certificate_required:
      return "certificate_required";
    case Alert::no_application_protocol:
      return "no_application_protocol";
  }
  return "unknown_alert";
}

std::array<std::uint8_t, 2> encode(Alert alert) noexcept {
  constexpr std::uint8_t kWarning = 1;
  constexpr std::uint8_t kFatal = 2;
  const bool warning = alert == Alert::close_notify || alert == Alert::user_canceled;
  return {warning ? kWarning : kFatal, static_cast<std::uint8_t>(alert)};
}

std::optional<Alert> decode(std::span<const std::uint8_t> message) noexcept {
  if (message.size() != 2) return std::nullopt;
  // The level is ignored: in TLS 1.3 the severity is implicit in the description (§6).
  return static_cast<Alert>(message[1]);
}

}  // namespace inlay::tls
