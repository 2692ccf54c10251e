// Streams of the C library over TCP sockets: cookie streams whose functions are the hooks.
#pragma once

#include <cstdio>

#include "shim/boot/plain_streams.h"

namespace inlay::shim::boot {

// As fdopen(): null with errno on failure. fileno() of the stream is `fd`; fclose closes it.
FILE *open_socket_stream(int fd, const char *mode) noexcept;
bool is_socket_stream(FILE *stream) noexcept;
// As freopen(), which dereferences null on a cookie stream: the connection ends, and the stream goes on
// with the file. Returns the standard stream where the number is one's.
FILE *reopen_socket_stream(const char *path, const char *mode, FILE *stream) noexcept;
// After dup2 onto 0, 1 or 2, and at boot: stdin, stdout or stderr becomes such a stream when the
// number is a TCP socket now, and the plain one again when it no longer is.
void refresh_standard_stream(int fd) noexcept;
// What `stream`, whose number was withdrawn, stands for: the stream of the connection where it is the C
// library's own standard stream, and std::cout and others kept a pointer to it; else itself.
FILE *standing_for(FILE *stream, int number) noexcept;
inline FILE *meant(FILE *stream) noexcept {
  int number = stream == nullptr ? -1 : withdrawn_number(stream);
  return number < 0 ? stream : standing_for(stream, number);
}
// At exit, before the C library forgets them.
void flush_socket_streams() noexcept;

}  // namespace inlay::shim::boot
