// The C library's formatting into a descriptor, which calls its hidden write: formatted here, and
// written by the hook.

#include <sys/mman.h>

#include "shim/arena/kernel.h"
#include "shim/boot/heap.h"
#include "shim/hooks/hook.h"

using namespace inlay::shim;

extern "C" int __vsnprintf_chk(char *text, size_t size, int flag, size_t room, const char *format,
                               va_list arguments);

namespace {

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

// A crash handler's list of frames: the C library writes it to a file in memory, which is sent. No
// memory is asked for.
template <typename Write>
void send_backtrace(Write write_symbols, void *const *frames, int count, Slot &slot, int fd) {
  int saved = errno;
  long memory = kernel::call(SYS_memfd_create, kernel::word("backtrace"), MFD_CLOEXEC);
  if (memory < 0) return refuse(slot, fd, Refusal::stdio, "backtrace_symbols_fd");
  write_symbols(frames, count, static_cast<int>(memory));
  char part[512];
  long got = 0, at = 0;
  while ((got = kernel::call(SYS_pread64, memory, kernel::word(part), sizeof part, at)) > 0) {
    if (write_all(fd, part, static_cast<int>(got)) < 0) break;
    at += got;
  }
  kernel::close(static_cast<int>(memory));
  errno = saved;
}

}  // namespace

extern "C" {

// Formats in a buffer of its own and writes to standard error.
void psiginfo(const siginfo_t *info, const char *text) {
  if (Slot *slot = managed(STDERR_FILENO)) {
    return refuse(*slot, STDERR_FILENO, Refusal::stdio, "psiginfo");
  }
  next.psiginfo(info, text);
}

void backtrace_symbols_fd(void *const *frames, int count, int fd) noexcept {
  if (Slot *slot = managed(fd)) {
    return send_backtrace(next.backtrace_symbols_fd, frames, count, *slot, fd);
  }
  next.backtrace_symbols_fd(frames, count, fd);
}

void __backtrace_symbols_fd(void *const *frames, int count, int fd) {
  if (Slot *slot = managed(fd)) {
    return send_backtrace(next.__backtrace_symbols_fd, frames, count, *slot, fd);
  }
  next.__backtrace_symbols_fd(frames, count, fd);
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
