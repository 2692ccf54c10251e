#include "shim/boot/log_prune.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>

#include "policy/log_record.h"
#include "shim/arena/kernel.h"
#include "shim/boot/heap.h"

namespace inlay::shim::boot {
namespace {

using policy::LogFile;
using policy::LogRecord;

constexpr std::int64_t kKeepSeconds = 24 * 60 * 60;  // as `inlay log` does
constexpr std::size_t kMostDead = 512;
constexpr std::size_t kMostSeen = 8192;

// What getdents64(2) gives; the C library's is the same but not promised to be.
struct Entry {
  std::uint64_t inode;
  std::int64_t offset;
  std::uint16_t size;
  std::uint8_t type;
  char name[1];
};

// The length of the digits at `text`.
std::size_t digits(const char *text) noexcept { return std::strspn(text, "0123456789"); }

// "<pid>-<start time>.log": the length of its pid, else 0.
std::size_t pid_length(const char *name) noexcept {
  std::size_t length = digits(name);
  if (length == 0 || length > 10 || name[length] != '-') return 0;
  const char *start = name + length + 1;
  return digits(start) > 0 && std::strcmp(start + digits(start), ".log") == 0 ? length : 0;
}

// A pid in use again keeps a dead process's file a little longer, that is all.
bool is_dead(const char *name, std::size_t length) noexcept {
  char path[32] = "/proc/";
  std::memcpy(path + 6, name, length);
  path[6 + length] = '\0';
  return kernel::call(SYS_faccessat, AT_FDCWD, kernel::word(path), F_OK) == -ENOENT;
}

std::int64_t now() noexcept {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  return time.tv_sec;
}

// Writing through a mapping leaves the file's times alone: the last event tells.
std::int64_t last_event(int folder, const char *name) noexcept {
  long fd = kernel::call(SYS_openat, folder, kernel::word(name),
                         O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return 0;
  auto read = [fd](auto &value, std::size_t offset) {
    return kernel::call(SYS_pread64, fd, kernel::word(&value), sizeof value,
                        static_cast<long>(offset)) == static_cast<long>(sizeof value);
  };
  std::uint64_t next = 0;
  std::int64_t time_ns = 0;
  if (read(next, offsetof(LogFile, next)) && next > 0) {
    std::size_t slot = (next - 1) % policy::kLogRingSize;
    if (!read(time_ns,
              offsetof(LogFile, ring) + slot * sizeof(LogRecord) + offsetof(LogRecord, time_ns))) {
      time_ns = 0;
    }
  }
  kernel::close(static_cast<int>(fd));
  return time_ns / 1'000'000'000;
}

bool is_own_file(int folder, const char *name, struct stat &info) noexcept {
  return kernel::call(SYS_newfstatat, folder, kernel::word(name), kernel::word(&info),
                      AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISREG(info.st_mode) && static_cast<long>(info.st_uid) == kernel::call(SYS_geteuid);
}

bool is_old(int folder, const char *name, const struct stat &info, std::int64_t time) noexcept {
  if (time - info.st_mtim.tv_sec <= kKeepSeconds) return false;
  return time - last_event(folder, name) > kKeepSeconds;
}

// When a file was made: writing through a mapping does not touch it.
std::int64_t made_at(const struct stat &info) noexcept {
  return info.st_mtim.tv_sec * 1'000'000'000L + info.st_mtim.tv_nsec;
}

// Calls visit(name, status) for the logs of this user's dead processes, until it returns false.
template <typename Visit>
void each_dead(int folder, Visit visit) noexcept {
  alignas(Entry) char buffer[2048];  // thread stacks may be 16 KiB
  if (kernel::call(SYS_lseek, folder, 0, SEEK_SET) != 0) return;
  while (true) {
    long length = kernel::call(SYS_getdents64, folder, kernel::word(buffer), sizeof buffer);
    if (length <= 0) return;
    for (long at = 0; at < length;) {
      auto *entry = reinterpret_cast<const Entry *>(buffer + at);
      const char *name = buffer + at + offsetof(Entry, name);
      at += entry->size;
      std::size_t pid = pid_length(name);
      struct stat info {};
      if (pid == 0 || !is_own_file(folder, name, info) || !is_dead(name, pid)) continue;
      if (!visit(name, info)) return;
    }
  }
}

// What was made before this is one too many. The order of a folder's names says nothing.
std::int64_t oldest_to_keep(int folder) noexcept {
  auto *times = static_cast<std::int64_t *>(allocate(kMostSeen * sizeof(std::int64_t)));
  if (times == nullptr) return 0;
  std::size_t count = 0;
  each_dead(folder, [&](const char *, const struct stat &info) {
    times[count++] = made_at(info);
    return count < kMostSeen;
  });
  std::int64_t oldest = 0;
  if (count > kMostDead) {
    std::int64_t *bound = times + (count - kMostDead);
    std::nth_element(times, bound, times + count);
    oldest = *bound;
  }
  release(times);
  return oldest;
}

}  // namespace

void prune_logs(const char *path) noexcept {
  long folder =
      kernel::call(SYS_openat, AT_FDCWD, kernel::word(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  auto fd = static_cast<int>(folder);
  std::int64_t time = now();
  std::int64_t oldest = oldest_to_keep(fd);
  std::size_t seen = 0;
  each_dead(fd, [&](const char *name, const struct stat &info) {
    if (made_at(info) < oldest || is_old(fd, name, info, time)) {
      kernel::call(SYS_unlinkat, fd, kernel::word(name), 0);
    }
    return ++seen < kMostSeen;
  });
  kernel::close(fd);
}

}  // namespace inlay::shim::boot
