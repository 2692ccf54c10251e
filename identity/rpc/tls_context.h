// What both ends of a network connection between agent and authority have in common: TLS 1.3
// alone, ALPN "h2", no tickets, no resumption, no 0-RTT, SPIFFE verification in place of OpenSSL's.
// For devices and browsers there is HTTP/1.1, where TLS 1.2 will do, too: ECDHE and AEAD alone.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "identity/openssl.h"
#include "identity/svid.h"

namespace inlay::identity::rpc {

// Judges a peer's chain, leaf first, as it was sent. True: the handshake goes on. Must not throw.
using JudgeChain = std::function<bool(const STACK_OF(X509) * chain)>;

enum class Side : std::uint8_t { client, server };
// What is spoken inside.
enum class Application : std::uint8_t { grpc, http };

// What one end shows, an SVID or a certificate of another kind. Points into it.
struct TlsCredentials {
  std::span<const X509Ptr> chain;  // leaf first
  EVP_PKEY *key = nullptr;

  TlsCredentials(std::span<const X509Ptr> certificates, EVP_PKEY *its_key)
      : chain(certificates), key(its_key) {}
  TlsCredentials(const X509Svid &svid) : chain(svid.chain), key(svid.key.get()) {}
};

// A client without `own` is anonymous. The error is one line. A server goes on without a
// certificate of the client, and does not ask for one where `ask_client` is false.
tl::expected<std::shared_ptr<SSL_CTX>, std::string> make_tls_context(
    Side side, const std::optional<TlsCredentials> &own,
    Application application = Application::grpc, bool ask_client = true);

// False, and in OpenSSL's error queue why, when that cannot be shown.
bool use_credentials(SSL_CTX *context, const TlsCredentials &own);

// A connection of that context on a non-blocking socket, which the caller keeps open. Null when out
// of memory. `judge` must outlive the handshake.
SslPtr make_tls(const std::shared_ptr<SSL_CTX> &context, Side side, int fd,
                const JudgeChain &judge);

// Whether "h2" was agreed on.
bool speaks_http2(const SSL *ssl);

// Why the last call on this connection failed, an end of the sentence "the handshake failed: …".
// Empties OpenSSL's error queue.
std::string tls_error(int result);

}  // namespace inlay::identity::rpc
