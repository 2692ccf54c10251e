// syscall(2) as a function: known numbers go through the hooks, everything else to the kernel as it
// came. Refusing unknown numbers would break programs for no gain.

#include <linux/aio_abi.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "shim/boot/forking.h"
#include "shim/boot/sandbox.h"
#include "shim/boot/sandbox_filter.h"
#include "shim/arena/arena.h"
#include "shim/hooks/hook.h"
#include "shim/session/fork.h"
#include "shim/session/program_memory.h"

using namespace inlay::shim;

namespace {

template <typename T>
T *at(long value) {
  return reinterpret_cast<T *>(value);
}
int number_of(long value) { return static_cast<int>(value); }
size_t size_of(long value) { return static_cast<size_t>(value); }
socklen_t length_of(long value) { return static_cast<socklen_t>(value); }

// Kernel asynchronous I/O on a managed socket would put bytes on the wire as they are: how many requests
// come before the first such. Those that cannot be read are the kernel's to refuse.
long before_managed(long count, iocb *const *requests) {
  if (arena_count() == 0) return count;
  for (long i = 0; i < count; ++i) {
    iocb *request = nullptr;
    iocb copy;
    if (copy_in(&request, requests + i, sizeof request) != sizeof request ||
        copy_in(&copy, request, sizeof copy) != sizeof copy) {
      return count;
    }
    int fd = static_cast<int>(copy.aio_fildes);
    bool moves_data = copy.aio_lio_opcode != IOCB_CMD_POLL && copy.aio_lio_opcode != IOCB_CMD_NOOP;
    Slot *slot = moves_data ? managed(fd) : nullptr;
    if (slot == nullptr) continue;
    note_unsupported(*slot, fd, "io_submit");
    return i;
  }
  return count;
}

// What the kernel will refuse is left to it.
bool forks_by(const clone_args *arguments, size_t size) {
  return arguments != nullptr && size >= CLONE_ARGS_SIZE_VER0 && boot::forks(arguments->flags) &&
         arguments->stack == 0;
}

// The hooks are cancellation points, syscall() is none.
class NotCancelled {
 public:
  NotCancelled() noexcept { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~NotCancelled() { pthread_setcancelstate(before_, nullptr); }
  NotCancelled(const NotCancelled &) = delete;
  NotCancelled &operator=(const NotCancelled &) = delete;

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

}  // namespace

// All six are read, as by the C library's own, however many were given: the last one is in the caller's frame, or what
// lies there.
extern "C" [[gnu::no_sanitize_address]] long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long),
       d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  if (!boot::active()) return next.syscall(number, a, b, c, d, e, f);
  NotCancelled guard;
  int fd = number_of(a);
  switch (number) {
    case SYS_read:
      return read(fd, at<void>(b), size_of(c));
    case SYS_readv:
      return readv(fd, at<iovec>(b), number_of(c));
    // The offset comes in two halves; on a 64-bit machine the low one is all of it.
    case SYS_preadv2:
      return preadv2(fd, at<iovec>(b), number_of(c), d, number_of(f));
    case SYS_recvfrom:
      return recvfrom(fd, at<void>(b), size_of(c), number_of(d), at<sockaddr>(e), at<socklen_t>(f));
    case SYS_recvmsg:
      return recvmsg(fd, at<msghdr>(b), number_of(c));
    case SYS_recvmmsg:
      return recvmmsg(fd, at<mmsghdr>(b), static_cast<unsigned>(c), number_of(d), at<timespec>(e));
    case SYS_write:
      return write(fd, at<void>(b), size_of(c));
    case SYS_writev:
      return writev(fd, at<iovec>(b), number_of(c));
    case SYS_pwritev2:
      return pwritev2(fd, at<iovec>(b), number_of(c), d, number_of(f));
    case SYS_sendto:
      return sendto(fd, at<void>(b), size_of(c), number_of(d), at<sockaddr>(e), length_of(f));
    case SYS_sendmsg:
      return sendmsg(fd, at<msghdr>(b), number_of(c));
    case SYS_sendmmsg:
      return sendmmsg(fd, at<mmsghdr>(b), static_cast<unsigned>(c), number_of(d));
    case SYS_sendfile:
      return sendfile64(fd, number_of(b), at<off64_t>(c), size_of(d));
    case SYS_splice:
      return splice(fd, at<off64_t>(b), number_of(c), at<off64_t>(d), size_of(e),
                    static_cast<unsigned>(f));
    case SYS_io_submit: {
      long good = before_managed(b, at<iocb *>(c));
      if (good == 0 && b > 0) return fail(EINVAL);
      return next.syscall(number, a, good, c);
    }
    case SYS_connect:
      return connect(fd, at<sockaddr>(b), length_of(c));
#ifdef SYS_accept
    case SYS_accept:
      return accept(fd, at<sockaddr>(b), at<socklen_t>(c));
#endif
    case SYS_accept4:
      return accept4(fd, at<sockaddr>(b), at<socklen_t>(c), number_of(d));
    case SYS_getsockopt:
      return getsockopt(fd, number_of(b), number_of(c), at<void>(d), at<socklen_t>(e));
    case SYS_setsockopt:
      return setsockopt(fd, number_of(b), number_of(c), at<void>(d), length_of(e));
    case SYS_ioctl:
      return ioctl(fd, static_cast<unsigned long>(b), c);
    case SYS_shutdown:
      return shutdown(fd, number_of(b));
    case SYS_socket:
      return socket(number_of(a), number_of(b), number_of(c));
    case SYS_socketpair:
      return socketpair(number_of(a), number_of(b), number_of(c), at<int>(d));
    case SYS_pidfd_getfd:
      return pidfd_getfd(fd, number_of(b), static_cast<unsigned>(c));
    case SYS_close:
      return close(fd);
    case SYS_close_range:
      return close_range(static_cast<unsigned>(a), static_cast<unsigned>(b), number_of(c));
    case SYS_dup:
      return dup(fd);
#ifdef SYS_dup2
    case SYS_dup2:
      return dup2(fd, number_of(b));
#endif
    case SYS_dup3:
      return dup3(fd, number_of(b), number_of(c));
    case SYS_fcntl:
      return fcntl(fd, number_of(b), c);
    case SYS_epoll_ctl:
      return epoll_ctl(fd, number_of(b), number_of(c), at<epoll_event>(d));
    case SYS_execve:
      return execve(at<char>(a), at<char *>(b), at<char *>(c));
    case SYS_execveat:
      return execveat(fd, at<char>(b), at<char *>(c), at<char *>(d), number_of(e));
    case SYS_exit_group:
      _exit(number_of(a));
    case SYS_prctl:
      return prctl(number_of(a), b, c, d, e);
    case SYS_seccomp: {
      if (!boot::active() || a > SECCOMP_SET_MODE_FILTER) break;  // the others only ask
      before_filter();
      boot::WiderFilter filter(a == SECCOMP_SET_MODE_FILTER ? at<sock_fprog>(c) : nullptr);
      if (a == SECCOMP_SET_MODE_FILTER) c = reinterpret_cast<long>(filter.program());
      long result = next.syscall(number, a, b, c);
      if (result >= 0) boot::note_sandbox();
      return result;
    }
    case SYS_clone:
      if (!boot::forks(static_cast<unsigned long>(a)) || b != 0 || in_foreign_process()) break;
      return boot::as_fork([&] { return next.syscall(number, a, b, c, d, e, f); });
    case SYS_clone3:
      if (!forks_by(at<clone_args>(a), size_of(b)) || in_foreign_process()) break;
      return boot::as_fork([&] { return next.syscall(number, a, b); });
#ifdef SYS_fork
    case SYS_fork:
      if (in_foreign_process()) break;
      return boot::as_fork([&] { return next.syscall(number); });
#endif
    case SYS_chroot:
      return chroot(at<char>(a));
    case SYS_prlimit64:
      return prlimit64(number_of(a), static_cast<__rlimit_resource>(number_of(b)),
                       at<rlimit64>(c), at<rlimit64>(d));
    case SYS_setrlimit:
      return setrlimit64(number_of(a), at<rlimit64>(b));
    case SYS_getrlimit:
      return getrlimit64(number_of(a), at<rlimit64>(b));
    case SYS_unshare:
      return unshare(number_of(a));
    case SYS_setns:
      return setns(fd, number_of(b));
    default:
      break;
  }
  return next.syscall(number, a, b, c, d, e, f);
}
