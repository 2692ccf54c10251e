#include <openssl/x509_vfy.h>

#include <cstring>
#include <string_view>

#include "tls/handshake_context.h"

// OpenSSL calls these from C frames: no exception may leave them.

namespace inlay::tls {
namespace {

HandshakeContext &context_of(const SSL *ssl) noexcept {
  return *static_cast<HandshakeContext *>(SSL_get_ex_data(ssl, 0));  // SSL_set_app_data
}

int nibble(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void parse_secret(std::string_view digits, Secret &secret) noexcept {
  if (digits.size() % 2 != 0 || digits.size() / 2 > secret.bytes.size()) return;
  for (std::size_t i = 0; i < digits.size() / 2; ++i) {
    const int high = nibble(digits[2 * i]);
    const int low = nibble(digits[2 * i + 1]);
    if (high < 0 || low < 0) return;
    secret.bytes[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  secret.length = digits.size() / 2;
}

// The documented way to a connection's secrets: "LABEL client_random secret", the last two in hex.
// Nothing of it is written anywhere; OpenSSL cleanses the line.
void on_keylog(const SSL *ssl, const char *line) noexcept {
  const std::string_view text(line);
  const std::size_t label_end = text.find(' ');
  if (label_end == std::string_view::npos) return;
  const std::size_t random_end = text.find(' ', label_end + 1);
  if (random_end == std::string_view::npos) return;
  const std::string_view label = text.substr(0, label_end);
  const std::string_view digits = text.substr(random_end + 1);
  HandshakeContext &context = context_of(ssl);
  if (label == "CLIENT_HANDSHAKE_TRAFFIC_SECRET")
    parse_secret(digits, context.client_handshake);
  else if (label == "CLIENT_TRAFFIC_SECRET_0")
    parse_secret(digits, context.client_traffic);
  else if (label == "SERVER_TRAFFIC_SECRET_0")
    parse_secret(digits, context.server_traffic);
}

// Chosen for the alert OpenSSL makes of it, RFC 8446 §6.2.
int x509_error(identity::VerifyError error) noexcept {
  using identity::VerifyError;
  switch (error) {
    case VerifyError::malformed:
    case VerifyError::weak:
      return X509_V_ERR_CERT_REJECTED;  // bad_certificate
    case VerifyError::no_uri_san:
    case VerifyError::several_uri_sans:
    case VerifyError::not_a_spiffe_id:
    case VerifyError::root_path:
    case VerifyError::leaf_is_ca:
    case VerifyError::key_usage_missing:
    case VerifyError::key_usage_wrong:
    case VerifyError::extended_key_usage:
      return X509_V_ERR_INVALID_PURPOSE;  // unsupported_certificate
    case VerifyError::expired:
      return X509_V_ERR_CERT_HAS_EXPIRED;  // certificate_expired
    case VerifyError::not_yet_valid:
      return X509_V_ERR_CERT_NOT_YET_VALID;  // bad_certificate
    case VerifyError::unknown_trust_domain:
    case VerifyError::untrusted:
      return X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY;  // unknown_ca
    case VerifyError::intermediate:
      return X509_V_ERR_INVALID_CA;  // unknown_ca
    case VerifyError::revoked:
      return X509_V_ERR_CERT_REVOKED;  // certificate_revoked
    case VerifyError::crl_stale:
      return X509_V_ERR_UNABLE_TO_GET_CRL;  // unknown_ca
    case VerifyError::chain_too_long:
      return X509_V_ERR_CERT_CHAIN_TOO_LONG;  // unknown_ca
    case VerifyError::no_certificate:
    case VerifyError::internal:
      break;
  }
  return X509_V_ERR_OUT_OF_MEM;  // internal_error
}

std::time_t not_after_of(const X509 *certificate) noexcept {
  std::tm date{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &date) != 1) return 0;
  return timegm(&date);
}

// The whole of the peer's chain is judged here; OpenSSL's own path building never runs.
int on_certificate(X509_STORE_CTX *store, void *) noexcept {
  const auto *ssl = static_cast<const SSL *>(
      X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  HandshakeContext &context = context_of(ssl);
  const STACK_OF(X509) *chain = X509_STORE_CTX_get0_untrusted(store);
  try {
    const std::time_t now = std::time(nullptr);
    const auto digest = VerifiedChains::digest(chain);
    tl::expected<identity::SpiffeId, identity::VerifyFailure> peer =
        tl::unexpected(identity::VerifyFailure{identity::VerifyError::internal, {}});
    if (auto known = digest ? context.verified->find(*digest, now) : std::nullopt) {
      peer = std::move(known->id);
      context.peer_path = known->path;
    } else {
      peer = identity::verify_x509_svid(chain, context.material->bundles, now, &context.peer_path);
      if (peer && digest)
        context.verified->remember(*digest, chain, context.material->bundles,
                                   {*peer, context.peer_path}, now);
    }
    if (peer) {
      context.peer_not_after = not_after_of(sk_X509_value(chain, 0));
      context.peer = std::move(*peer);
      X509_STORE_CTX_set_error(store, X509_V_OK);
      return 1;
    }
    context.verify = std::move(peer.error());
    X509_STORE_CTX_set_error(store, x509_error(context.verify->error));
  } catch (...) {
    context.out_of_memory = true;
    X509_STORE_CTX_set_error(store, X509_V_ERR_OUT_OF_MEM);
  }
  return 0;
}

// On a client this is called after the server's CertificateVerify and before our own certificate
// is used: the last moment to refuse without saying who we are. OpenSSL has no keys for our alert
// yet and no code for access_denied, so on a refusal it goes on without any certificate (it must
// not sign for a peer we refuse) and Handshake throws away what it makes: see
// Handshake::State::refuse_server.
int on_own_certificate(SSL *ssl, void *) noexcept {
  HandshakeContext &context = context_of(ssl);
  if (context.role == Role::server) return 1;
  context.certificate_requested = true;
  try {
    if (!ask_judge(context)) SSL_certs_clear(ssl);
    return 1;
  } catch (...) {
    context.out_of_memory = true;
    return 0;
  }
}

// A peer without the extension never gets here and is accepted.
int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_length, const unsigned char *in,
            unsigned in_length, void *) noexcept {
  for (unsigned at = 0; at < in_length; at += 1u + in[at]) {
    const unsigned length = in[at];
    if (length == sizeof kAlpn - 1 && at + 1 + length <= in_length &&
        std::memcmp(in + at + 1, kAlpn, length) == 0) {
      *out = in + at + 1;
      *out_length = static_cast<unsigned char>(length);
      return SSL_TLSEXT_ERR_OK;
    }
  }
  context_of(ssl).no_common_alpn = true;
  return SSL_TLSEXT_ERR_ALERT_FATAL;  // no_application_protocol (RFC 7301 §3.2)
}

}  // namespace

void install_callbacks(SSL_CTX *context) noexcept {
  SSL_CTX_set_keylog_callback(context, on_keylog);
  SSL_CTX_set_cert_verify_callback(context, on_certificate, nullptr);
  SSL_CTX_set_cert_cb(context, on_own_certificate, nullptr);
  SSL_CTX_set_alpn_select_cb(context, on_alpn, nullptr);
}

bool ask_judge(HandshakeContext &context) {
  if (!context.peer) return false;
  if (context.judge && !context.judge(*context.peer)) context.not_authorised = true;
  return !context.not_authorised;
}

}  // namespace inlay::tls
