// One connection as the bench's client and server see it. Two sources implement it: plain_stream.cc
// with bare BSD sockets (what runs as plaintext, under inlay and behind the proxies) and
// tls_stream.cc with mutual TLS 1.3 by OpenSSL (what runs as "native"). A binary links one of them,
// so the plain programs carry nothing of TLS. Single-threaded, like the programs.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>

namespace inlay::bench {

// What only the TLS variant needs; the plain one ignores it. Paths of PEM files.
struct Credentials {
  std::string certificate;  // chain, leaf first
  std::string key;
  std::string authority;
  std::string ciphersuite;       // TLS 1.3 name; "" for OpenSSL's own preference
  bool release_buffers = false;  // SSL_MODE_RELEASE_BUFFERS: memory before speed
};

// "plain" or "tls".
const char *stream_kind();

// Once, before the first stream. Ends the process with a message when the credentials are no good.
void prepare_streams(const Credentials &credentials, bool server);

class Stream;

// Takes over a connected descriptor. The handshake, if any, happens in the first read or write.
Stream *open_stream(int fd);

// As read(2) and write(2): -1 and errno, EAGAIN on a non-blocking descriptor, 0 at the end.
ssize_t stream_read(Stream *stream, void *buffer, std::size_t length);
ssize_t stream_write(Stream *stream, const void *buffer, std::size_t length);

// Data is waiting in the process, so that the descriptor need not become readable for it.
bool stream_pending(const Stream *stream);

int stream_fd(const Stream *stream);

// Says goodbye (close_notify), closes the descriptor, frees the stream.
void close_stream(Stream *stream);

}  // namespace inlay::bench
