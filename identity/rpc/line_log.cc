#include "identity/rpc/line_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace inlay::identity::rpc {

tl::expected<LineLog::Opened, std::string> LineLog::open_in(int folder, const std::string &name) {
  Opened out{
      .fd = policy::UniqueFd(openat(
          folder, name.c_str(),
          O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0640))};
  if (!out.fd || fstat(out.fd.get(), &out.status) != 0) {
    const char *why = strerrordesc_np(errno);
    return tl::unexpected<std::string>(why != nullptr ? why : "error");
  }
  if (!S_ISREG(out.status.st_mode)) return tl::unexpected<std::string>("not a regular file");
  return out;
}

tl::expected<void, std::string> LineLog::open(const std::string &file) {
  policy::UniqueFd folder;
  std::string name;
  Opened opened;
  if (!file.empty()) {
    const std::size_t slash = file.rfind('/');
    auto trusted = policy::open_trusted_folder(slash == 0 ? "/" : file.substr(0, slash), {});
    if (!trusted) return tl::unexpected(fmt::format("{}: {}", file, trusted.error()));
    folder = *std::move(trusted);
    name = file.substr(slash + 1);
    auto there = open_in(folder.get(), name);
    if (!there) return tl::unexpected(fmt::format("{}: {}", file, there.error()));
    opened = *std::move(there);
  }
  std::lock_guard lock(mutex_);
  folder_ = std::move(folder);
  name_ = std::move(name);
  file_ = std::move(opened);
  return {};
}

// Looked at before each line, so that whoever moved a file away may compress it at once. False:
// the file has no name any more, and no other can be made; nobody would find the line.
bool LineLog::follow() {
  struct stat now {};
  if (fstatat(folder_.get(), name_.c_str(), &now, AT_SYMLINK_NOFOLLOW) == 0 &&
      now.st_dev == file_.status.st_dev && now.st_ino == file_.status.st_ino) {
    return true;
  }
  if (auto anew = open_in(folder_.get(), name_)) {
    file_ = *std::move(anew);
    torn_ = false;
    return true;
  }
  return fstat(file_.fd.get(), &now) == 0 && now.st_nlink != 0;
}

// One write a line: O_APPEND keeps lines whole among several writers, and a file that is cut to
// nothing while it is written (logrotate's copytruncate) begins at its beginning again.
bool LineLog::write(std::string line) {
  std::lock_guard lock(mutex_);
  if (file_.fd && !follow()) return false;
  if (torn_) line.insert(line.begin(), '\n');
  const int fd = file_.fd ? file_.fd.get() : STDERR_FILENO;
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

}  // namespace inlay::identity::rpc
