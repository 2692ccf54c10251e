// Opening and closing streams. The C library's streams call its hidden read, write and close: no
// hook sees them. A stream over a TCP socket is therefore a cookie stream whose functions are the
// hooks (boot/streams.h); of every other stream inlay knows at which number it is
// (boot/plain_streams.h).

#include "shim/boot/streams.h"

#include <stdio_ext.h>

#include "shim/boot/environment.h"
#include "shim/boot/plain_streams.h"
#include "shim/hooks/hook.h"
#include "shim/session/hand_over.h"

using namespace inlay::shim;

namespace {

// A socket that may become managed while the stream lives counts, connected or not.
bool is_tcp(int fd) {
  if (!boot::active()) return false;
  if (managed(fd) != nullptr) return true;
  std::uint64_t word = descriptor_word(fd);
  return word == kSocket || word == kPlain;
}

FILE *opened(FILE *stream) {
  if (boot::active()) boot::note_plain_stream(stream);
  return stream;
}

// The number the C library is about to close under a plain stream, the stream's own or the one it
// was made to give up; the session there ends. False: what the stream holds belongs to the
// connection and cannot be sent: that ends with a reason.
bool end_session_under(FILE *stream, int *fd) {
  int withdrawn = boot::withdrawn_number(stream);
  *fd = withdrawn >= 0 ? withdrawn : boot::stream_number(stream);
  Slot *slot = *fd >= 0 && descriptor_word(*fd) != kFile ? managed_here(*fd) : nullptr;
  bool lost = (withdrawn >= 0 || slot != nullptr) && __fpending(stream) > 0;
  if (lost) {
    __fpurge(stream);
    if (slot != nullptr) refuse(*slot, *fd, Refusal::stdio, "a stream from before holds data");
  }
  if (slot != nullptr) {
    before_replace(*slot, *fd);
  } else if (*fd >= 0) {
    forget_file(*fd);
  }
  return !lost;
}

template <typename Reopen>
FILE *reopen_with(Reopen reopen, const char *path, const char *mode, FILE *stream) {
  if (stream == nullptr || !boot::active()) return reopen(path, mode, stream);
  stream = boot::meant(stream);
  if (boot::is_socket_stream(stream)) return boot::reopen_socket_stream(path, mode, stream);
  int fd = -1;
  end_session_under(stream, &fd);
  // The C library closes the number that the stream has, and puts the file there.
  if (boot::withdrawn_number(stream) >= 0) stream->_fileno = fd;
  FILE *result = reopen(path, mode, stream);
  if (fd >= 0) {
    forget_file(fd);
    boot::give_back_streams(fd);
  }
  return result;
}

template <typename Close>
int close_with(Close close_stream, FILE *stream) {
  if (stream == nullptr || !boot::active()) return close_stream(stream);
  stream = boot::meant(stream);
  if (boot::is_socket_stream(stream)) return close_stream(stream);
  boot::forget_plain_stream(stream);
  int fd = -1;
  bool withdrawn = boot::withdrawn_number(stream) >= 0;
  bool complete = end_session_under(stream, &fd);
  if (!withdrawn) {
    int closed = close_stream(stream);
    if (fd >= 0) after_close_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd));
    return closed;
  }
  stream->_fileno = -1;  // closed here, by the hook
  bool closed = close(fd) == 0;
  close_stream(stream);
  return closed && complete ? 0 : EOF;
}

// The child may use a connection when its parent has long closed it: it holds it from the start, as one
// of posix_spawn() does.
template <typename Open>
FILE *open_pipe(Open open, const char *command, const char *mode) {
  FILE *stream = nullptr;
  HandOver hand_over;
  if (boot::active() && boot::judge_target("/bin/sh") == boot::Target::reachable) {
    hand_over.for_spawn(nullptr);
  }
  boot::with_own_environment(hand_over.variable(), [&] { stream = open(command, mode); });
  if (stream != nullptr) hand_over.spawned_last();
  return opened(stream);
}

}  // namespace

extern "C" {

FILE *fopen(const char *path, const char *mode) { return opened(bound().fopen(path, mode)); }
FILE *fopen64(const char *path, const char *mode) { return opened(bound().fopen64(path, mode)); }
FILE *_IO_fopen(const char *path, const char *mode) {
  return opened(bound()._IO_fopen(path, mode));
}
FILE *tmpfile(void) { return opened(bound().tmpfile()); }
FILE *tmpfile64(void) { return opened(bound().tmpfile64()); }

FILE *popen(const char *command, const char *mode) {
  return open_pipe(bound().popen, command, mode);
}
FILE *_IO_popen(const char *command, const char *mode) {
  return open_pipe(bound()._IO_popen, command, mode);
}

FILE *fdopen(int fd, const char *mode) noexcept {
  if (is_tcp(fd)) return boot::open_socket_stream(fd, mode);
  return opened(bound().fdopen(fd, mode));
}

FILE *_IO_fdopen(int fd, const char *mode) {
  if (is_tcp(fd)) return boot::open_socket_stream(fd, mode);
  return opened(bound()._IO_fdopen(fd, mode));
}

FILE *freopen(const char *path, const char *mode, FILE *stream) {
  return reopen_with(bound().freopen, path, mode, stream);
}
FILE *freopen64(const char *path, const char *mode, FILE *stream) {
  return reopen_with(bound().freopen64, path, mode, stream);
}

int fclose(FILE *stream) { return close_with(bound().fclose, stream); }
int _IO_fclose(FILE *stream) { return close_with(bound()._IO_fclose, stream); }

// A program may write to the number itself, as std::cout does without stdio: that is protected.
int fileno(FILE *stream) noexcept {
  int withdrawn = boot::withdrawn_number(stream);
  return withdrawn >= 0 ? withdrawn : bound().fileno(stream);
}
int fileno_unlocked(FILE *stream) noexcept { return fileno(stream); }

// The functions behind a stream of a file, for programs that make streams of their own: on a cookie
// stream they would take its number for one.
ssize_t _IO_file_read(FILE *stream, void *data, ssize_t size) {
  if (managed(stream->_fileno) == nullptr) return bound()._IO_file_read(stream, data, size);
  return read(stream->_fileno, data, static_cast<size_t>(size));
}

ssize_t _IO_file_write(FILE *stream, const void *data, ssize_t size) {
  if (managed(stream->_fileno) == nullptr) return bound()._IO_file_write(stream, data, size);
  return write(stream->_fileno, data, static_cast<size_t>(size));
}

FILE *_IO_file_attach(FILE *stream, int fd) {
  if (!is_tcp(fd)) return opened(bound()._IO_file_attach(stream, fd));
  errno = EINVAL;
  return nullptr;
}

}  // extern "C"
