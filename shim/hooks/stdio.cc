// The C library's streams call its hidden read, write and close: no hook sees them. A stream over a
// TCP socket is therefore a cookie stream whose functions are the hooks; it carries the socket's
// number, so fileno() tells the truth.

#include <stdio_ext.h>

#include "shim/boot/heap.h"
#include "shim/boot/streams.h"
#include "shim/hooks/hook.h"

using namespace inlay::shim;

extern "C" int __vsnprintf_chk(char *text, size_t size, int flag, size_t room, const char *format,
                               va_list arguments);

namespace {

// A socket that may become managed while the stream lives counts, connected or not.
bool is_tcp(int fd) {
  if (!boot::active()) return false;
  if (managed(fd) != nullptr) return true;
  std::uint64_t word = descriptor_word(fd);
  return word == kSocket || word == kPlain;
}

int descriptor_of(FILE *stream) { return stream == nullptr ? -1 : stream->_fileno; }

// Everything of `text` or an error, as vdprintf does.
int write_all(int fd, const char *text, int length) {
  int done = 0;
  while (done < length) {
    ssize_t written = write(fd, text + done, static_cast<size_t>(length - done));
    if (written < 0) return -1;
    done += static_cast<int>(written);
  }
  return length;
}

// Formats with the fortified function when the program was built with it: its checks still hold.
int print(int fd, int flag, const char *format, va_list arguments) {
  char small[1024];
  va_list again;
  va_copy(again, arguments);
  int length = flag >= 0 ? __vsnprintf_chk(small, sizeof small, flag, sizeof small, format, again)
                         : vsnprintf(small, sizeof small, format, again);
  va_end(again);
  if (length < 0) return -1;
  if (static_cast<size_t>(length) < sizeof small) return write_all(fd, small, length);
  auto size = static_cast<size_t>(length) + 1;
  auto *large = static_cast<char *>(boot::allocate(size));
  if (large == nullptr) return fail(ENOMEM);
  int printed = flag >= 0 ? __vsnprintf_chk(large, size, flag, size, format, arguments)
                          : vsnprintf(large, size, format, arguments);
  int result = printed < 0 ? -1 : write_all(fd, large, printed);
  int saved = errno;
  boot::release(large);
  errno = saved;
  return result;
}

// A plain stream over a managed socket was made behind inlay's back. The C library is about to
// close its number; what the stream still buffers would go out in the clear, so then the connection
// ends.
void end_session_under(FILE *stream) {
  int fd = descriptor_of(stream);
  if (fd < 0 || !boot::active() || boot::is_socket_stream(stream)) return;
  Slot *slot = managed_here(fd);
  if (slot == nullptr) return;
  if (__fpending(stream) > 0) {
    refuse(*slot, fd, Refusal::stdio, "fclose");
  } else {
    before_replace(*slot, fd);
  }
}

}  // namespace

extern "C" {

FILE *fdopen(int fd, const char *mode) noexcept {
  if (is_tcp(fd)) return boot::open_socket_stream(fd, mode);
  return bound().fdopen(fd, mode);
}

FILE *_IO_fdopen(int fd, const char *mode) {
  if (is_tcp(fd)) return boot::open_socket_stream(fd, mode);
  return bound()._IO_fdopen(fd, mode);
}

FILE *freopen(const char *path, const char *mode, FILE *stream) {
  end_session_under(stream);
  return bound().freopen(path, mode, stream);
}

FILE *freopen64(const char *path, const char *mode, FILE *stream) {
  end_session_under(stream);
  return bound().freopen64(path, mode, stream);
}

int fclose(FILE *stream) {
  end_session_under(stream);
  return bound().fclose(stream);
}

int _IO_fclose(FILE *stream) {
  end_session_under(stream);
  return bound()._IO_fclose(stream);
}

int dprintf(int fd, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int result = managed(fd) != nullptr ? print(fd, -1, format, arguments)
                                      : next.vdprintf(fd, format, arguments);
  va_end(arguments);
  return result;
}

int vdprintf(int fd, const char *format, va_list arguments) {
  if (managed(fd) != nullptr) return print(fd, -1, format, arguments);
  return next.vdprintf(fd, format, arguments);
}

int __dprintf_chk(int fd, int flag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int result = managed(fd) != nullptr ? print(fd, flag, format, arguments)
                                      : next.__vdprintf_chk(fd, flag, format, arguments);
  va_end(arguments);
  return result;
}

int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments) {
  if (managed(fd) != nullptr) return print(fd, flag, format, arguments);
  return next.__vdprintf_chk(fd, flag, format, arguments);
}

}  // extern "C"
