#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "tests/bench/stream.h"

namespace inlay::bench {

class Stream {
 public:
  SSL *ssl;
};

namespace {

SSL_CTX *context = nullptr;
bool accepting = false;

[[noreturn]] void give_up(const char *what) {
  std::fprintf(stderr, "%s: ", what);
  ERR_print_errors_fp(stderr);
  std::exit(1);
}

int as_int(std::size_t length) { return length > INT_MAX ? INT_MAX : static_cast<int>(length); }

// OpenSSL's verdict in the words of read(2) and write(2).
ssize_t result(SSL *ssl, int returned) {
  if (returned > 0) return returned;
  switch (SSL_get_error(ssl, returned)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      errno = EAGAIN;
      return -1;
    case SSL_ERROR_ZERO_RETURN:
      return 0;
    case SSL_ERROR_SYSCALL:
      if (errno == 0) errno = ECONNRESET;
      return -1;
    default:
      ERR_print_errors_fp(stderr);
      errno = ECONNRESET;
      return -1;
  }
}

}  // namespace

const char *stream_kind() { return "tls"; }

void prepare_streams(const Credentials &credentials, bool server) {
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL's socket BIO writes without MSG_NOSIGNAL
  accepting = server;
  context = SSL_CTX_new(TLS_method());
  if (context == nullptr) give_up("SSL_CTX_new");
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  // A full handshake for every connection, as inlay does: no tickets, no resumption.
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  if (credentials.release_buffers) SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  if (SSL_CTX_use_certificate_chain_file(context, credentials.certificate.c_str()) != 1)
    give_up(credentials.certificate.c_str());
  if (SSL_CTX_use_PrivateKey_file(context, credentials.key.c_str(), SSL_FILETYPE_PEM) != 1)
    give_up(credentials.key.c_str());
  if (SSL_CTX_load_verify_locations(context, credentials.authority.c_str(), nullptr) != 1)
    give_up(credentials.authority.c_str());
  if (!credentials.ciphersuite.empty() &&
      SSL_CTX_set_ciphersuites(context, credentials.ciphersuite.c_str()) != 1)
    give_up(credentials.ciphersuite.c_str());
}

Stream *open_stream(int fd) {
  SSL *ssl = SSL_new(context);
  if (ssl == nullptr || SSL_set_fd(ssl, fd) != 1) give_up("SSL_new");
  if (accepting) {
    SSL_set_accept_state(ssl);
  } else {
    SSL_set_connect_state(ssl);
  }
  return new Stream{ssl};
}

ssize_t stream_read(Stream *stream, void *buffer, std::size_t length) {
  ERR_clear_error();
  errno = 0;
  return result(stream->ssl, SSL_read(stream->ssl, buffer, as_int(length)));
}

ssize_t stream_write(Stream *stream, const void *buffer, std::size_t length) {
  ERR_clear_error();
  errno = 0;
  return result(stream->ssl, SSL_write(stream->ssl, buffer, as_int(length)));
}

bool stream_pending(const Stream *stream) { return SSL_pending(stream->ssl) > 0; }

int stream_fd(const Stream *stream) { return SSL_get_fd(stream->ssl); }

void close_stream(Stream *stream) {
  const int fd = SSL_get_fd(stream->ssl);
  SSL_shutdown(stream->ssl);
  SSL_free(stream->ssl);
  close(fd);
  delete stream;
}

}  // namespace inlay::bench
