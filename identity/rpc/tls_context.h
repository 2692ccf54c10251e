// What both ends of a network connection between agent and authority have in common: TLS 1.3
// alone, ALPN "h2", no tickets, no resumption, no 0-RTT, SPIFFE verification in place of OpenSSL's.
#pragma once

#include <functional>
#include <string>

#include "identity/openssl.h"
#include "identity/svid.h"

namespace inlay::identity::rpc {

// Judges a peer's chain, leaf first, as it was sent. True: the handshake goes on. Must not throw.
using JudgeChain = std::function<bool(const STACK_OF(X509) * chain)>;

enum class Side : std::uint8_t { client, server };

// `own` may be null for a client. The error is one line. A server asks for a certificate and goes
// on without one; a client without an own one is anonymous. Each side must set_judge() on each SSL.
tl::expected<std::shared_ptr<SSL_CTX>, std::string> make_tls_context(Side side,
                                                                     const X509Svid *own);

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
