#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/stream.h"

namespace inlay::bench {

class Stream {
 public:
  int fd;
};

const char *stream_kind() { return "plain"; }

void prepare_streams(const Credentials &, bool) {}

Stream *open_stream(int fd) { return new Stream{fd}; }

ssize_t stream_read(Stream *stream, void *buffer, std::size_t length) {
  return recv(stream->fd, buffer, length, 0);
}

ssize_t stream_write(Stream *stream, const void *buffer, std::size_t length) {
  return send(stream->fd, buffer, length, MSG_NOSIGNAL);
}

bool stream_pending(const Stream *) { return false; }

int stream_fd(const Stream *stream) { return stream->fd; }

void close_stream(Stream *stream) {
  close(stream->fd);
  delete stream;
}

}  // namespace inlay::bench
