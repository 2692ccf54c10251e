#include <openssl/err.h>
#include <openssl/sslerr.h>

#include "tls/handshake_context.h"

namespace inlay::tls {
namespace {

// A received alert N is reported as reason 1000 + N.
constexpr int kAlertOffset = SSL_AD_REASON_OFFSET;

HandshakeError error_of(int reason) noexcept {
  switch (reason) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    case SSL_R_NO_CERTIFICATES_RETURNED:
      return HandshakeError::no_certificate;
    case SSL_R_NO_PROTOCOLS_AVAILABLE:
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_UNSUPPORTED_SSL_VERSION:
    case SSL_R_WRONG_SSL_VERSION:
    case SSL_R_UNKNOWN_SSL_VERSION:
    case SSL_R_VERSION_TOO_LOW:
    case SSL_R_BAD_PROTOCOL_VERSION_NUMBER:
      return HandshakeError::version;
    case SSL_R_NO_APPLICATION_PROTOCOL:
      return HandshakeError::alpn;
    case SSL_R_BAD_SIGNATURE:
    case SSL_R_WRONG_SIGNATURE_TYPE:
    case SSL_R_WRONG_SIGNATURE_SIZE:
    case SSL_R_WRONG_CURVE:
    case SSL_R_DIGEST_CHECK_FAILED:
      return HandshakeError::key_proof;
    case SSL_R_DATA_LENGTH_TOO_LONG:
    case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
      return HandshakeError::record_overflow;
    case ERR_R_MALLOC_FAILURE:
      return HandshakeError::out_of_memory;
    case ERR_R_INTERNAL_ERROR:
      return HandshakeError::internal;
    default:
      return HandshakeError::protocol;
  }
}

}  // namespace

std::string_view sentence(HandshakeError error) noexcept {
  switch (error) {
    case HandshakeError::none:
      return "no error";
    case HandshakeError::not_tls:
      return "the peer does not speak TLS";
    case HandshakeError::version:
      return "the peer does not offer TLS 1.3";
    case HandshakeError::alpn:
      return "the peer offers only application protocols inlay does not speak";
    case HandshakeError::no_certificate:
      return "the peer presented no certificate";
    case HandshakeError::certificate:
      return "the peer's certificate is not acceptable";
    case HandshakeError::not_authorised:
      return "the peer's SPIFFE ID is not allowed";
    case HandshakeError::key_proof:
      return "the peer did not prove it holds its certificate's key";
    case HandshakeError::alert_received:
      return "the peer refused the handshake with an alert";
    case HandshakeError::record_overflow:
      return "the peer sent a record longer than TLS allows";
    case HandshakeError::protocol:
      return "the peer broke the TLS protocol";
    case HandshakeError::own_svid_expired:
      return "this workload's own SVID has expired";
    case HandshakeError::no_signature:
      return "the agent did not sign for this workload";
    case HandshakeError::out_of_memory:
      return "there was no memory for the handshake";
    case HandshakeError::internal:
      return "inlay met a state it does not know";
  }
  return "unknown error";
}

HandshakeFailure classify(const HandshakeContext &context, const SSL *ssl, int result) {
  const unsigned long code = ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  const char *text = ERR_reason_error_string(code);
  HandshakeFailure failure;
  if (context.out_of_memory) {
    failure.error = HandshakeError::out_of_memory;
  } else if (context.no_signature) {
    failure.error = HandshakeError::no_signature;
    failure.detail = *context.no_signature;
  } else if (context.not_authorised) {
    failure.error = HandshakeError::not_authorised;
    failure.detail = context.peer->uri();
  } else if (context.verify) {
    const bool internal = context.verify->error == identity::VerifyError::internal;
    failure.error = internal ? HandshakeError::internal : HandshakeError::certificate;
    failure.verify = context.verify;
    failure.detail = context.verify->detail;
  } else if (result == SSL_ERROR_ZERO_RETURN) {
    failure.error = HandshakeError::alert_received;
    failure.alert = Alert::close_notify;
  } else if (reason >= kAlertOffset && reason < kAlertOffset + 256) {
    failure.alert = static_cast<Alert>(reason - kAlertOffset);
    failure.error = *failure.alert == Alert::protocol_version ? HandshakeError::version
                                                              : HandshakeError::alert_received;
  } else if (context.no_common_alpn) {
    failure.error = HandshakeError::alpn;
  } else if (reason == SSL_R_EXCESSIVE_MESSAGE_SIZE &&
             (SSL_get_state(ssl) == TLS_ST_CR_CERT || SSL_get_state(ssl) == TLS_ST_SR_CERT)) {
    failure.error = HandshakeError::certificate;
    failure.detail = "the chain is longer than a handshake may carry";
    failure.verify = identity::VerifyFailure{identity::VerifyError::chain_too_long, failure.detail};
  } else {
    failure.error = error_of(reason);
  }
  if (failure.detail.empty()) {
    if (failure.alert)
      failure.detail = std::string("alert ") + std::string(name(*failure.alert));
    else if (text != nullptr)
      failure.detail = text;
  }
  ERR_clear_error();
  return failure;
}

}  // namespace inlay::tls
