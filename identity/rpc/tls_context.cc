#include "identity/rpc/tls_context.h"

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace inlay::identity::rpc {
namespace {

constexpr long kMaxCertificateMessage = 64 * 1024;
constexpr std::array<unsigned char, 3> kHttp2{2, 'h', '2'};  // ProtocolNameList (RFC 7301 §3.1)
// Of TLS 1.2: forward secrecy, and no CBC (RFC 9325 §4.2).
constexpr const char *kCiphers12 =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

// Chosen for its alert: bad_certificate.
constexpr int kRefused = X509_V_ERR_CERT_REJECTED;

int on_chain(X509_STORE_CTX *store, void *) noexcept {
  const auto *ssl = static_cast<const SSL *>(
      X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  const auto *judge = static_cast<const JudgeChain *>(SSL_get_ex_data(ssl, 0));
  if (judge != nullptr && (*judge)(X509_STORE_CTX_get0_untrusted(store))) {
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
  }
  X509_STORE_CTX_set_error(store, kRefused);
  return 0;
}

int on_protocols(SSL *, const unsigned char **chosen, unsigned char *chosen_length,
                 const unsigned char *offered, unsigned int offered_length,
                 void *application) noexcept {
  const std::string_view wanted = application == nullptr ? "h2" : "http/1.1";
  for (unsigned int at = 0; at < offered_length; at += offered[at] + 1u) {
    const unsigned int length = offered[at];
    if (at + 1 + length > offered_length) break;
    if (std::string_view(reinterpret_cast<const char *>(offered + at + 1), length) != wanted) {
      continue;
    }
    *chosen = offered + at + 1;
    *chosen_length = static_cast<unsigned char>(length);
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

bool set_protocol(SSL_CTX *context, Application application, bool ask_client) {
  // A tag: which of the two names the server chooses.
  static char http;
  const bool grpc = application == Application::grpc;
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_cert_list(context, kMaxCertificateMessage);
  SSL_CTX_set_security_level(context, 2);
  SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_verify(context, ask_client ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  SSL_CTX_set_cert_verify_callback(context, on_chain, nullptr);
  SSL_CTX_set_alpn_select_cb(context, on_protocols, grpc ? nullptr : &http);
  if (!grpc && SSL_CTX_set_cipher_list(context, kCiphers12) != 1) return false;
  return SSL_CTX_set_min_proto_version(context, grpc ? TLS1_3_VERSION : TLS1_2_VERSION) == 1 &&
         SSL_CTX_set_num_tickets(context, 0) == 1 && SSL_CTX_set_max_early_data(context, 0) == 1 &&
         SSL_CTX_set1_groups_list(context, grpc ? "X25519:P-256" : "X25519:P-256:P-384") == 1 &&
         SSL_CTX_set_alpn_protos(context, kHttp2.data(), kHttp2.size()) == 0;  // 0 is success here
}

}  // namespace

bool use_credentials(SSL_CTX *context, const TlsCredentials &own) {
  if (own.chain.empty() || own.key == nullptr ||
      SSL_CTX_use_certificate(context, own.chain.front().get()) != 1 ||
      SSL_CTX_use_PrivateKey(context, own.key) != 1)
    return false;
  for (std::size_t i = 1; i < own.chain.size(); ++i)
    if (SSL_CTX_add1_chain_cert(context, own.chain[i].get()) != 1) return false;
  return SSL_CTX_check_private_key(context) == 1;
}

tl::expected<std::shared_ptr<SSL_CTX>, std::string> make_tls_context(
    Side side, const std::optional<TlsCredentials> &own, Application application, bool ask_client) {
  ERR_clear_error();
  std::shared_ptr<SSL_CTX> context(
      SSL_CTX_new_ex(library_context(), nullptr,
                     side == Side::client ? TLS_client_method() : TLS_server_method()),
      SSL_CTX_free);
  if (!context || !set_protocol(context.get(), application, ask_client) ||
      (own && !use_credentials(context.get(), *own))) {
    return tl::unexpected("TLS cannot be set up: " + tls_error(0));
  }
  return context;
}

SslPtr make_tls(const std::shared_ptr<SSL_CTX> &context, Side side, int fd,
                const JudgeChain &judge) {
  SslPtr ssl(SSL_new(context.get()));
  if (ssl == nullptr || SSL_set_fd(ssl.get(), fd) != 1 ||
      SSL_set_ex_data(ssl.get(), 0, const_cast<JudgeChain *>(&judge)) != 1) {
    return nullptr;
  }
  side == Side::client ? SSL_set_connect_state(ssl.get()) : SSL_set_accept_state(ssl.get());
  return ssl;
}

bool speaks_http2(const SSL *ssl) {
  const unsigned char *name = nullptr;
  unsigned int length = 0;
  SSL_get0_alpn_selected(ssl, &name, &length);
  return length == 2 && std::memcmp(name, "h2", 2) == 0;
}

std::string tls_error(int result) {
  const unsigned long code = ERR_peek_last_error();
  const char *reason = ERR_reason_error_string(code);
  std::string text = reason != nullptr ? reason : "";
  if (text.empty()) {
    const bool by_system = result == SSL_ERROR_SYSCALL && errno != 0;
    text = by_system ? std::strerror(errno) : "the other end closed the connection";
  }
  ERR_clear_error();
  return text;
}

}  // namespace inlay::identity::rpc
