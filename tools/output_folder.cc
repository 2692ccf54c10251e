#include "tools/output_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace inlay::tools {
namespace {

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

// Best effort: who may not give files away keeps the new file.
mode_t take_over(int fd, const struct stat &existing, mode_t mode) {
  if (!S_ISREG(existing.st_mode)) return mode;
  if (::fchown(fd, existing.st_uid, existing.st_gid) != 0) return mode;
  const mode_t old = existing.st_mode & 07777;
  return (old & ~static_cast<mode_t>(0640)) == 0 ? old | 0600 : mode;
}

}  // namespace

tl::expected<OutputFolder, std::string> OutputFolder::open(const std::string &path, mode_t mode) {
  const auto failed = [&](int error) {
    return tl::unexpected("cannot use the folder " + path + ": " + std::strerror(error));
  };
  std::error_code ignored;
  std::filesystem::path parent = std::filesystem::absolute(path, ignored).parent_path();
  std::filesystem::create_directories(parent, ignored);
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return failed(errno);
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return failed(errno);
  OutputFolder folder(path, fd);
  if (::flock(fd, LOCK_EX) != 0) return failed(errno);
  return folder;
}

OutputFolder::OutputFolder(OutputFolder &&other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      pending_(std::exchange(other.pending_, {})) {}

OutputFolder::~OutputFolder() {
  for (const Pending &file : pending_) ::unlinkat(fd_, file.temporary.c_str(), 0);
  if (fd_ >= 0) ::close(fd_);
}

std::string OutputFolder::complaint(const std::string &name, int error) const {
  return "cannot write " + (std::filesystem::path(path_) / name).string() + ": " +
         std::strerror(error);
}

bool OutputFolder::has(const std::string &name) const {
  struct stat status {};
  return ::fstatat(fd_, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

tl::expected<void, std::string> OutputFolder::put(const std::string &name, std::string_view bytes,
                                                  mode_t mode, bool keep_owner) {
  // The folder is locked: nobody else uses this name, and one left by a killed command is stale.
  const std::string temporary = "." + name + ".new";
  ::unlinkat(fd_, temporary.c_str(), 0);
  const int fd =
      ::openat(fd_, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return tl::unexpected(complaint(name, errno));
  pending_.push_back({temporary, name});
  struct stat existing {};
  if (keep_owner && ::fstatat(fd_, name.c_str(), &existing, AT_SYMLINK_NOFOLLOW) == 0) {
    mode = take_over(fd, existing, mode);
  }
  // The mode is this command's to choose, not the umask's. Synced, so that a crash after the rename
  // does not leave an empty file under the name.
  const bool good = write_all(fd, bytes) && ::fchmod(fd, mode) == 0 && ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  if (!good) return tl::unexpected(complaint(name, error));
  return {};
}

tl::expected<void, std::string> OutputFolder::publish() {
  while (!pending_.empty()) {
    const Pending &file = pending_.front();
    if (::renameat(fd_, file.temporary.c_str(), fd_, file.name.c_str()) != 0) {
      return tl::unexpected(complaint(file.name, errno));
    }
    pending_.erase(pending_.begin());
  }
  ::fsync(fd_);
  return {};
}

}  // namespace inlay::tools
