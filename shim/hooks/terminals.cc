// Library functions that fork, leave, or put a terminal or /dev/null on 0 to 2, with system calls
// that no hook sees. Where inlay is at work they are made of the calls that have one, as glibc has
// them in misc/daemon.c, login/login_tty.c and login/forkpty.c.
#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <utmp.h>

#include "shim/hooks/hook.h"

using namespace inlay::shim;

namespace {

// What the standard streams of a daemon become. The device is looked at: with the file system in
// disorder it may be anything.
int open_null() noexcept {
  int fd = ::open("/dev/null", O_RDWR);
  struct stat info {};
  if (fd < 0) return -1;
  bool is_known = ::fstat(fd, &info) == 0;
  if (is_known && S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3)) return fd;
  if (is_known) errno = ENODEV;
  int error = errno;
  ::close(fd);
  return fail(error);
}

void replace_standard_streams(int with) noexcept {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream) {
    while (::dup2(with, stream) < 0 && errno == EBUSY) {
    }
  }
  if (with > STDERR_FILENO) ::close(with);
}

}  // namespace

extern "C" {

int daemon(int keep_folder, int keep_streams) noexcept {
  if (!boot::active() || in_foreign_process()) return bound().daemon(keep_folder, keep_streams);
  pid_t child = ::fork();
  if (child < 0) return -1;
  if (child > 0) ::_exit(0);
  if (::setsid() < 0) return -1;
  const int moved = keep_folder == 0 ? ::chdir("/") : 0;
  static_cast<void>(moved);  // glibc does not look either
  if (keep_streams != 0) return 0;
  int null = open_null();
  if (null < 0) return -1;
  replace_standard_streams(null);
  return 0;
}

int login_tty(int terminal) noexcept {
  if (!boot::active() || in_foreign_process()) return bound().login_tty(terminal);
  ::setsid();
  if (::ioctl(terminal, TIOCSCTTY, nullptr) < 0) return -1;
  replace_standard_streams(terminal);
  return 0;
}

int forkpty(int *terminal, char *name, const struct termios *settings,
            const struct winsize *size) noexcept {
  if (!boot::active() || in_foreign_process())
    return bound().forkpty(terminal, name, settings, size);
  int own = -1, of_child = -1;
  if (::openpty(&own, &of_child, name, settings, size) < 0) return -1;
  pid_t child = ::fork();
  if (child == 0) {
    ::close(own);
    if (::login_tty(of_child) < 0) ::_exit(1);
    return 0;
  }
  ::close(of_child);
  if (child < 0) {
    ::close(own);
    return -1;
  }
  *terminal = own;
  return child;
}

}  // extern "C"
