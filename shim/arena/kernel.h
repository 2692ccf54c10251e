// System calls made directly: never interposed, never a cancellation point, errno untouched. Results
// are the kernel's: negative errno on failure. Used wherever a session lock is held, so that a
// cancelled thread cannot leave the lock behind.
#pragma once

#include <cerrno>
#include <cstdint>

#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tls/sanitizer.h"

namespace inlay::shim::kernel {

inline long enter(long number, long a, long b, long c, long d, long e, long f) noexcept {
#if defined(__x86_64__)
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc 0"
               : "+r"(x0)
               : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
               : "memory");
  return x0;
#else
#error "inlay knows the system call convention of x86-64 and aarch64 only"
#endif
}

inline char g_mappings;  // stands for the kernel's lock: addresses are taken back, then given again

inline long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                 long f = 0) noexcept {
  if (number == SYS_munmap) sanitizer::lets_go(&g_mappings);
  const long result = enter(number, a, b, c, d, e, f);
  if (number == SYS_mmap) sanitizer::takes_up(&g_mappings);
  return result;
}

template <typename T>
long word(T *pointer) noexcept {
  return reinterpret_cast<long>(pointer);
}

inline long receive(int fd, void *buffer, std::size_t length, int flags) noexcept {
  return call(SYS_recvfrom, fd, word(buffer), static_cast<long>(length), flags, 0, 0);
}
inline long send(int fd, const void *buffer, std::size_t length, int flags) noexcept {
  return call(SYS_sendto, fd, word(buffer), static_cast<long>(length), flags, 0, 0);
}
inline long get_option(int fd, int level, int name, void *value, socklen_t *length) noexcept {
  return call(SYS_getsockopt, fd, level, name, word(value), word(length));
}
inline long set_option(int fd, int level, int name, const void *value, socklen_t length) noexcept {
  return call(SYS_setsockopt, fd, level, name, word(value), static_cast<long>(length));
}
inline long shut_down(int fd, int how) noexcept { return call(SYS_shutdown, fd, how); }
inline long close(int fd) noexcept { return call(SYS_close, fd); }
inline int process_id() noexcept { return static_cast<int>(call(SYS_getpid)); }
inline int thread_id() noexcept { return static_cast<int>(call(SYS_gettid)); }

}  // namespace inlay::shim::kernel
