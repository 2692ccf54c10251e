#include "policy/line_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace inlay::policy {

tl::expected<void, std::string> LineLog::open(const std::string &file) {
  UniqueFd opened;
  if (!file.empty()) {
    const std::size_t slash = file.rfind('/');
    auto folder = open_trusted_folder(slash == 0 ? "/" : file.substr(0, slash), {});
    if (!folder) return tl::unexpected(fmt::format("{}: {}", file, folder.error()));
    opened = UniqueFd(openat(
        folder->get(), file.c_str() + slash + 1,
        O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0640));
    struct stat status {};
    if (!opened || fstat(opened.get(), &status) != 0) {
      const char *why = strerrordesc_np(errno);
      return tl::unexpected(fmt::format("{}: {}", file, why != nullptr ? why : "error"));
    }
    if (!S_ISREG(status.st_mode)) return tl::unexpected(file + ": not a regular file");
  }
  std::lock_guard lock(mutex_);
  file_ = std::move(opened);
  return {};
}

// One write a line: O_APPEND keeps lines whole among several writers.
bool LineLog::write(std::string line) {
  std::lock_guard lock(mutex_);
  if (torn_) line.insert(line.begin(), '\n');
  const int fd = file_ ? file_.get() : STDERR_FILENO;
  ssize_t written;
  do {
    written = ::write(fd, line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(line.size())) {
    torn_ = false;
    return true;
  }
  torn_ = torn_ || written > 0;
  return false;
}

}  // namespace inlay::policy
