#include <openssl/err.h>

#include <array>
#include <new>

#include "identity/memory.h"
#include "tls/credentials_state.h"
#include "tls/handshake_context.h"

namespace inlay::tls {
namespace {

// Longest certificate message taken: a chain with its extensions. OpenSSL refuses a longer one
// before it makes room for it.
constexpr long kMaxCertificateMessage = 64 * 1024;

constexpr const char *kAesFirst =
    "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384";
constexpr const char *kChachaFirst =
    "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
// What X.509-SVIDs accepted here can sign with; PKCS #1 is for certificates only (RFC 8446 §4.2.3).
constexpr const char *kSignatureAlgorithms =
    "ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:"
    "rsa_pss_rsae_sha512:rsa_pss_pss_sha256:rsa_pss_pss_sha384:rsa_pss_pss_sha512:"
    "rsa_pkcs1_sha256:rsa_pkcs1_sha384:rsa_pkcs1_sha512";

bool set_protocol(SSL_CTX *context) {
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_cert_list(context, kMaxCertificateMessage);
  SSL_CTX_set_security_level(context, 2);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN);
  install_callbacks(context);

  // ProtocolNameList entry: length, name.
  std::array<unsigned char, sizeof kAlpn> alpn{sizeof kAlpn - 1};
  for (std::size_t i = 0; i + 1 < sizeof kAlpn; ++i)
    alpn[i + 1] = static_cast<unsigned char>(kAlpn[i]);

  return SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
         SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
         SSL_CTX_set_num_tickets(context, 0) == 1 && SSL_CTX_set_max_early_data(context, 0) == 1 &&
         SSL_CTX_set_ciphersuites(context, processor_has_aes() ? kAesFirst : kChachaFirst) == 1 &&
         SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1 &&
         SSL_CTX_set1_sigalgs_list(context, kSignatureAlgorithms) == 1 &&
         SSL_CTX_set_alpn_protos(context, alpn.data(), alpn.size()) == 0;  // 0 is success here
}

bool set_identity(SSL_CTX *context, const identity::X509Svid &svid) {
  if (svid.chain.empty() || svid.key == nullptr ||
      SSL_CTX_use_certificate(context, svid.chain.front().get()) != 1 ||
      SSL_CTX_use_PrivateKey(context, svid.key.get()) != 1)
    return false;
  for (std::size_t i = 1; i < svid.chain.size(); ++i)
    if (SSL_CTX_add1_chain_cert(context, svid.chain[i].get()) != 1) return false;
  return SSL_CTX_check_private_key(context) == 1;
}

std::string last_error(const char *what) {
  const char *reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return std::string(what) + ": " + (reason != nullptr ? reason : "OpenSSL gave no reason");
}

}  // namespace

Credentials::Credentials(std::unique_ptr<State> state) : state_(std::move(state)) {}
Credentials::~Credentials() = default;

const identity::Material &Credentials::material() const noexcept { return *state_->material; }

tl::expected<std::shared_ptr<const Credentials>, std::string> Credentials::make(
    std::shared_ptr<const identity::Material> material) try {
  if (material == nullptr) return tl::unexpected(std::string("no identity material"));
  ERR_clear_error();
  const identity::MemoryWatch watch;
  auto state = std::make_unique<State>();
  state->context.reset(SSL_CTX_new_ex(identity::library_context(), nullptr, TLS_method()));
  const bool set_up = state->context != nullptr && set_protocol(state->context.get());
  const bool usable = set_up && set_identity(state->context.get(), material->svid);
  if (watch.ran_out()) throw std::bad_alloc();  // OpenSSL may call it a key that does not match
  if (!set_up) return tl::unexpected(last_error("cannot set up TLS 1.3"));
  if (!usable) return tl::unexpected(last_error("cannot use the SVID and its key for TLS"));
  state->material = std::move(material);
  return std::shared_ptr<const Credentials>(new Credentials(std::move(state)));
} catch (...) {
  return tl::unexpected(std::string("out of memory"));  // short enough for no allocation
}

}  // namespace inlay::tls
