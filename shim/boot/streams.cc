#include "shim/boot/streams.h"

#include <fcntl.h>
#include <stdio_ext.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "shim/boot/heap.h"
#include "shim/arena/kernel.h"

namespace inlay::shim::boot {
namespace {

struct Stream {
  std::atomic<int> fd;  // kUnused: the entry waits for another stream
  std::atomic<FILE *> file;
  Stream *next;
};
constexpr int kUnused = -1;

// Entries are only ever added: walked without a lock.
constinit std::atomic<Stream *> g_streams{nullptr};

Stream *new_entry(int fd) noexcept {
  for (Stream *old = g_streams.load(std::memory_order_acquire); old != nullptr; old = old->next) {
    int unused = kUnused;
    if (old->fd.compare_exchange_strong(unused, fd)) return old;
  }
  auto *entry = static_cast<Stream *>(allocate(sizeof(Stream)));
  if (entry == nullptr) return nullptr;
  entry->fd.store(fd, std::memory_order_relaxed);
  entry->file.store(nullptr, std::memory_order_relaxed);
  entry->next = g_streams.load(std::memory_order_relaxed);
  while (!g_streams.compare_exchange_weak(entry->next, entry, std::memory_order_release)) {
  }
  return entry;
}

// The functions of a cookie stream. read and write here are the hooks of this library.
ssize_t read_stream(void *cookie, char *buffer, size_t size) {
  return ::read(static_cast<Stream *>(cookie)->fd, buffer, size);
}

// The C library's own loop (_IO_new_file_write): what could not be written is an error, and 0 says
// so.
ssize_t write_stream(void *cookie, const char *buffer, size_t size) {
  size_t done = 0;
  while (done < size) {
    ssize_t written = ::write(static_cast<Stream *>(cookie)->fd, buffer + done, size - done);
    if (written < 0) break;
    done += static_cast<size_t>(written);
  }
  return static_cast<ssize_t>(done);
}

int close_stream(void *cookie) {
  auto *entry = static_cast<Stream *>(cookie);
  int fd = entry->fd;
  entry->file.store(nullptr, std::memory_order_release);
  entry->fd.store(kUnused, std::memory_order_release);
  return ::close(fd);
}

// A socket cannot seek; any other errno would make the C library report an error.
int seek_stream(void *, off64_t *, int) {
  errno = ESPIPE;
  return -1;
}

bool is_tcp_socket(int fd) noexcept {
  int domain = 0, type = 0;
  socklen_t size = sizeof domain;
  if (kernel::get_option(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) return false;
  size = sizeof type;
  return kernel::get_option(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
         (domain == AF_INET || domain == AF_INET6);
}

// What a program has buffered goes where the number points when it is flushed, whichever stream
// object it was put in; and the buffering it asked for stays.
void take_over(FILE *before, FILE *after) noexcept {
  constexpr int kUnbuffered = 2;  // _IO_UNBUFFERED
  if ((before->_flags & kUnbuffered) != 0) {
    std::setvbuf(after, nullptr, _IONBF, 0);
  } else if (__flbf(before) != 0) {
    std::setvbuf(after, nullptr, _IOLBF, 0);
  }
  std::size_t waiting = __fpending(before);
  if (waiting == 0) return;
  std::fwrite(before->_IO_write_base, 1, waiting, after);
  __fpurge(before);
}

// The number belongs to another stream now. The object itself stays: others may point to it.
void forget_stream(FILE *stream) noexcept {
  for (Stream *entry = g_streams.load(std::memory_order_acquire); entry != nullptr;
       entry = entry->next) {
    if (entry->file.load(std::memory_order_acquire) == stream) {
      entry->file.store(nullptr, std::memory_order_release);
    }
  }
}

// fdopen()'s rules: the mode must fit the descriptor's.
bool mode_fits(int fd, const char *mode) noexcept {
  if (mode == nullptr || std::strchr("rwa", mode[0]) == nullptr || mode[0] == '\0') {
    errno = EINVAL;
    return false;
  }
  return ::fcntl(fd, F_GETFL) >= 0;
}

}  // namespace

FILE *open_socket_stream(int fd, const char *mode) noexcept {
  if (!mode_fits(fd, mode)) return nullptr;
  Stream *entry = new_entry(fd);
  if (entry == nullptr) {
    errno = ENOMEM;
    return nullptr;
  }
  cookie_io_functions_t functions{};
  functions.read = read_stream;
  functions.write = write_stream;
  functions.seek = seek_stream;
  functions.close = close_stream;
  FILE *file = ::fopencookie(entry, mode, functions);
  if (file == nullptr) {
    entry->fd.store(kUnused, std::memory_order_release);
    return nullptr;
  }
  // Programs ask fileno() and poll or close on it; the cookie functions do not look at it.
  file->_fileno = fd;
  entry->file.store(file, std::memory_order_release);
  return file;
}

bool is_socket_stream(FILE *stream) noexcept {
  for (Stream *entry = g_streams.load(std::memory_order_acquire); entry != nullptr;
       entry = entry->next) {
    if (entry->file.load(std::memory_order_acquire) == stream) return true;
  }
  return false;
}

void refresh_standard_stream(int fd) noexcept {
  FILE **names[] = {&stdin, &stdout, &stderr};
  constexpr const char *kModes[] = {"r", "w", "w"};
  static constinit FILE *plain[3] = {};
  if (fd < 0 || fd > 2) return;
  FILE *before = *names[fd];
  bool is_socket = is_socket_stream(before);
  if (is_tcp_socket(fd) == is_socket) return;
  int saved = errno;
  FILE *after = is_socket ? plain[fd] : open_socket_stream(fd, kModes[fd]);
  if (after != nullptr) {
    if (!is_socket) plain[fd] = before;
    if (fd != 0) take_over(before, after);
    *names[fd] = after;
    if (is_socket) forget_stream(before);
  }
  errno = saved;
}

void flush_socket_streams() noexcept {
  for (Stream *entry = g_streams.load(std::memory_order_acquire); entry != nullptr;
       entry = entry->next) {
    FILE *file = entry->file.load(std::memory_order_acquire);
    if (file != nullptr) std::fflush(file);
  }
}

}  // namespace inlay::shim::boot
