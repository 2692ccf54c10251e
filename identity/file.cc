#include "identity/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <utility>
#include <vector>

namespace inlay::identity {
namespace {

constexpr time_t kStampTick = 2;  // seconds

OpeningApart g_apart{[](void (*act)(void *), void *argument) noexcept { act(argument); },
                     [](int fd) noexcept { ::close(fd); }};

// strerror() speaks the host's language.
std::string reason(int error) {
  const char *const text = strerrordesc_np(error);
  return text != nullptr ? text : fmt::format("error {}", error);
}

bool same(const timespec &a, const timespec &b) noexcept {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool in_group(gid_t group) {
  if (getegid() == group) return true;
  const int count = getgroups(0, nullptr);
  if (count <= 0) return false;
  std::vector<gid_t> groups(static_cast<std::size_t>(count));
  const int filled = getgroups(count, groups.data());
  if (filled < 0) return false;
  return std::find(groups.begin(), groups.begin() + filled, group) != groups.begin() + filled;
}

}  // namespace

FileStamp FileStamp::of(const std::string &path) noexcept {
  FileStamp stamp;
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    stamp.error = errno;
    return stamp;
  }
  stamp.device = status.st_dev;
  stamp.inode = status.st_ino;
  stamp.size = status.st_size;
  stamp.modified = status.st_mtim;
  stamp.changed = status.st_ctim;
  return stamp;
}

bool FileStamp::operator==(const FileStamp &other) const noexcept {
  return device == other.device && inode == other.inode && size == other.size &&
         same(modified, other.modified) && same(changed, other.changed) && error == other.error;
}

bool FileStamp::recent(const timespec &now) const noexcept {
  // A time in the future is as good as an old one: the next change will have another.
  return error == 0 && changed.tv_sec >= now.tv_sec - kStampTick &&
         changed.tv_sec <= now.tv_sec + kStampTick;
}

FileContent::~FileContent() { OPENSSL_cleanse(bytes.data(), bytes.size()); }

void open_files_apart(OpeningApart how) noexcept { g_apart = how; }

tl::expected<FileContent, std::string> read_file(const std::string &path, std::size_t limit) {
  struct Reading {
    const std::string &path;
    std::size_t limit;
    std::optional<tl::expected<FileContent, std::string>> content;  // none: out of memory
  } reading{path, limit, {}};
  g_apart.run(
      [](void *argument) {
        auto &mine = *static_cast<Reading *>(argument);
        const int fd = open(mine.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        try {
          if (fd < 0) {
            mine.content.emplace(tl::unexpected(reason(errno)));
          } else {
            mine.content.emplace(read_file(fd, mine.limit));
          }
        } catch (const std::bad_alloc &) {
        }
        if (fd >= 0) g_apart.close(fd);
      },
      &reading);
  if (!reading.content) throw std::bad_alloc();
  return *std::move(reading.content);
}

tl::expected<FileContent, std::string> read_file(int fd, std::size_t limit) {
  FileContent content;
  if (fstat(fd, &content.status) != 0) return tl::unexpected(reason(errno));
  if (!S_ISREG(content.status.st_mode)) return tl::unexpected(std::string("not a regular file"));
  const auto too_large = [&] { return tl::unexpected(fmt::format("larger than {} bytes", limit)); };
  if (content.status.st_size < 0 || static_cast<std::size_t>(content.status.st_size) > limit) {
    return too_large();
  }
  // One byte more than expected, so that the end is seen; grown only if the file grows meanwhile.
  // A buffer that is reallocated would leave a copy of a key behind.
  content.bytes.resize(static_cast<std::size_t>(content.status.st_size) + 1);
  std::size_t filled = 0;
  for (;;) {
    const ssize_t got = pread(fd, content.bytes.data() + filled, content.bytes.size() - filled,
                              static_cast<off_t>(filled));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return tl::unexpected(reason(errno));
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    if (filled == content.bytes.size()) {
      return tl::unexpected(std::string("it grew while being read"));
    }
  }
  content.bytes.resize(filled);
  return content;
}

std::string key_permission_complaint(const struct stat &status) {
  const auto mode = status.st_mode & 07777;
  if (status.st_uid != 0 && status.st_uid != geteuid()) {
    return fmt::format("belongs to uid {}, neither to root nor to uid {} of this process; chown it",
                       status.st_uid, geteuid());
  }
  if ((mode & ~static_cast<mode_t>(0640)) != 0) {
    return fmt::format("has mode {:04o}, which lets others at it; chmod 600 it", mode);
  }
  if ((mode & 0040) != 0 && !in_group(status.st_gid)) {
    return fmt::format(
        "may be read by group {}, which this process is not in; chmod 600 it or chgrp it",
        status.st_gid);
  }
  return {};
}

}  // namespace inlay::identity
