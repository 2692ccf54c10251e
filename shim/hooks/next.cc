#include "shim/hooks/next.h"

#include <dlfcn.h>

#include <cerrno>

#include "shim/arena/kernel.h"

namespace inlay::shim {
namespace {

// What dlsym and the allocator under it may call before the binding is done. A preloaded allocator
// reads files and makes system calls from its first malloc.
long result_of(long result) noexcept {
  if (result >= 0) return result;
  errno = static_cast<int>(-result);
  return -1;
}
ssize_t raw_read(int fd, void *buffer, size_t count) {
  return result_of(kernel::call(SYS_read, fd, kernel::word(buffer), static_cast<long>(count)));
}
ssize_t raw_write(int fd, const void *buffer, size_t count) {
  return result_of(kernel::call(SYS_write, fd, kernel::word(buffer), static_cast<long>(count)));
}
int raw_close(int fd) { return static_cast<int>(result_of(kernel::close(fd))); }
int raw_fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void *argument = va_arg(list, void *);
  va_end(list);
  return static_cast<int>(result_of(kernel::call(SYS_fcntl, fd, command, kernel::word(argument))));
}
int raw_prctl(int option, ...) {
  va_list list;
  va_start(list, option);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long),
       d = va_arg(list, long);
  va_end(list);
  return static_cast<int>(result_of(kernel::call(SYS_prctl, option, a, b, c, d)));
}
long raw_syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long),
       d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  return result_of(kernel::call(number, a, b, c, d, e, f));
}
void raw_exit(int status) {
  for (;;) kernel::call(SYS_exit_group, status);
}

// Address sanitizer's runtime asks for and sets limits from its first malloc(), which dlsym() may cause.
template <typename Limit>
int raw_setrlimit(__rlimit_resource_t resource, const Limit *wanted) {
  return static_cast<int>(
      result_of(kernel::call(SYS_prlimit64, 0, resource, kernel::word(wanted), 0)));
}
template <typename Limit>
int raw_getrlimit(__rlimit_resource_t resource, Limit *limit) {
  return static_cast<int>(
      result_of(kernel::call(SYS_prlimit64, 0, resource, 0, kernel::word(limit))));
}

constexpr Next unbound() noexcept {
  Next table{};
  table.read = table.__read = raw_read;
  table.write = table.__write = raw_write;
  table.close = table.__close = table.__close_nocancel = raw_close;
  table.fcntl = table.__fcntl = table.fcntl64 = raw_fcntl;
  table.prctl = raw_prctl;
  table.setrlimit = raw_setrlimit;
  table.setrlimit64 = raw_setrlimit;
  table.getrlimit = raw_getrlimit;
  table.getrlimit64 = raw_getrlimit;
  table.syscall = raw_syscall;
  table._exit = table._Exit = raw_exit;
  return table;
}

}  // namespace

constinit Next next = unbound();

// What the C library keeps for old programs only has no default version: dlsym() does not see it.
static void *next_symbol(const char *name) noexcept {
#if defined(__x86_64__)
  constexpr const char *kFirstVersion = "GLIBC_2.2.5";
#else
  constexpr const char *kFirstVersion = "GLIBC_2.17";
#endif
  void *symbol = dlsym(RTLD_NEXT, name);
  return symbol != nullptr ? symbol : dlvsym(RTLD_NEXT, name, kFirstVersion);
}

void bind_next() noexcept {
  int saved = errno;
#define INLAY_BIND(family, disposition, type, name, parameters, note) \
  if (void *symbol = next_symbol(#name)) {                            \
    next.name = reinterpret_cast<decltype(next.name)>(symbol);        \
  }
  INLAY_HOOKS(INLAY_BIND)
#undef INLAY_BIND
  errno = saved;
}

}  // namespace inlay::shim
