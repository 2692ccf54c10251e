#include "shim/boot/streams.h"

#include <fcntl.h>
#include <stdio_ext.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "shim/arena/kernel.h"
#include "shim/boot/heap.h"
#include "shim/session/socket_facts.h"

// The objects stdin, stdout and stderr point to at first.
extern "C" {
extern FILE _IO_2_1_stdin_, _IO_2_1_stdout_, _IO_2_1_stderr_;
}

namespace inlay::shim::boot {
namespace {

struct Stream {
  std::atomic<int> fd;  // kUnused: the entry waits for another stream
  std::atomic<FILE *> file;
  Stream *next;
};
constexpr int kUnused = -1;
constexpr int kClosed = -2;  // reopened in vain: the object is there still, its number is not

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
  return ::close(fd);  // kClosed: EBADF
}

// ESPIPE on a socket; the number may be a file's by now.
int seek_stream(void *cookie, off64_t *offset, int whence) {
  off64_t at = ::lseek64(static_cast<Stream *>(cookie)->fd, *offset, whence);
  if (at < 0) return -1;
  *offset = at;
  return 0;
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

Stream *entry_of(FILE *stream) noexcept {
  for (Stream *entry = g_streams.load(std::memory_order_acquire); entry != nullptr;
       entry = entry->next) {
    if (entry->file.load(std::memory_order_acquire) == stream) return entry;
  }
  return nullptr;
}

// fopen()'s modes; -1 with EINVAL.
int open_flags(const char *mode) noexcept {
  if (mode == nullptr || *mode == '\0' || std::strchr("rwa", *mode) == nullptr) {
    errno = EINVAL;
    return -1;
  }
  int flags = std::strchr(mode, '+') != nullptr ? O_RDWR : *mode == 'r' ? O_RDONLY : O_WRONLY;
  if (*mode != 'r') flags |= O_CREAT | (*mode == 'w' ? O_TRUNC : O_APPEND);
  if (std::strchr(mode, 'x') != nullptr) flags |= O_EXCL;
  if (std::strchr(mode, 'e') != nullptr) flags |= O_CLOEXEC;
  return flags;
}

void set_mode(FILE *stream, int flags) noexcept {
  constexpr int kNoReads = 4, kNoWrites = 8, kAppends = 0x1000;  // _IO_NO_READS and so on
  int access = flags & O_ACCMODE;
  int mode = (access == O_WRONLY ? kNoReads : 0) | (access == O_RDONLY ? kNoWrites : 0) |
             ((flags & O_APPEND) != 0 ? kAppends : 0);
  stream->_flags = (stream->_flags & ~(kNoReads | kNoWrites | kAppends)) | mode;
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

FILE *reopen_socket_stream(const char *path, const char *mode, FILE *stream) noexcept {
  std::fflush(stream);
  Stream *entry = entry_of(stream);
  if (entry == nullptr) return nullptr;  // closed by another thread
  int fd = entry->fd;
  char itself[32];
  if (path == nullptr) {
    std::snprintf(itself, sizeof itself, "/proc/self/fd/%d", fd);
    path = itself;
  }
  int flags = open_flags(mode);
  int opened = flags < 0 ? -1 : ::open(path, flags, 0666);
  if (opened < 0 || ::dup3(opened, fd, flags & O_CLOEXEC) < 0) {
    int saved = errno;
    if (opened >= 0) ::close(opened);
    ::close(fd);
    entry->fd.store(kClosed, std::memory_order_release);
    errno = saved;
    return nullptr;
  }
  ::close(opened);
  FILE *standard[] = {stdin, stdout, stderr};
  FILE *result = fd <= STDERR_FILENO ? standard[fd] : stream;
  for (FILE *one : {stream, result}) {
    __fpurge(one);
    std::clearerr(one);
    set_mode(one, flags);
  }
  return result;
}

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
  return stream != nullptr && entry_of(stream) != nullptr;
}

void refresh_standard_stream(int fd) noexcept {
  FILE **names[] = {&stdin, &stdout, &stderr};
  constexpr const char *kModes[] = {"r", "w", "w"};
  static constinit FILE *plain[3] = {}, *over_socket[3] = {};
  if (fd < 0 || fd > 2) return;
  FILE *before = *names[fd];
  bool is_socket = is_socket_stream(before);
  if (is_tcp(fd) == is_socket) return;
  int saved = errno;
  if (is_socket) {
    over_socket[fd] = before;
  } else {
    plain[fd] = before;
  }
  FILE *after = is_socket ? plain[fd] : over_socket[fd];
  // Closed by the program since.
  if (!is_socket && !is_socket_stream(after)) after = open_socket_stream(fd, kModes[fd]);
  if (after != nullptr) {
    if (fd != 0) take_over(before, after);
    *names[fd] = after;
  }
  errno = saved;
}

FILE *standing_for(FILE *stream, int number) noexcept {
  FILE *const standard[] = {stdin, stdout, stderr};
  FILE *const own[] = {&_IO_2_1_stdin_, &_IO_2_1_stdout_, &_IO_2_1_stderr_};
  if (number > STDERR_FILENO || stream != own[number]) return stream;
  return is_socket_stream(standard[number]) ? standard[number] : stream;
}

void flush_socket_streams() noexcept {
  for (Stream *entry = g_streams.load(std::memory_order_acquire); entry != nullptr;
       entry = entry->next) {
    FILE *file = entry->file.load(std::memory_order_acquire);
    if (file == nullptr) continue;
    // As the C library ends: a thread that waits in a call on the stream has its lock for good.
    bool locked = ftrylockfile(file) == 0;
    if (locked || __fpending(file) > 0) fflush_unlocked(file);
    if (locked) funlockfile(file);
  }
}

}  // namespace inlay::shim::boot
