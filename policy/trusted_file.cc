#include "policy/trusted_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <utility>
#include <vector>

#include "identity/user_namespace.h"

namespace inlay::policy {
namespace {

constexpr int kMaxLinks = 40;  // as the kernel's MAXSYMLINKS

std::string errno_text(int error) {
  char buffer[128];
  return strerror_r(error, buffer, sizeof buffer);  // the GNU one
}

// On the reversed stack of names still to walk.
void push_path(std::string_view path, std::vector<std::string> *todo) {
  std::vector<std::string> names;
  while (!path.empty()) {
    std::size_t slash = path.find('/');
    std::string_view name = path.substr(0, slash);
    if (!name.empty() && name != ".") names.emplace_back(name);
    path = slash == std::string_view::npos ? "" : path.substr(slash + 1);
  }
  todo->insert(todo->end(), names.rbegin(), names.rend());
}

struct Looked {
  struct stat stat;
  Node node;
};

bool look(int fd, Looked *out) {
  struct statvfs mount;
  if (fstat(fd, &out->stat) != 0 || fstatvfs(fd, &mount) != 0) return false;
  out->node = {.owner = out->stat.st_uid,
               .mode = out->stat.st_mode,
               .read_only = (mount.f_flag & ST_RDONLY) != 0};
  return true;
}

bool others_may_write(const Node &node) {
  return (node.mode & (S_IWGRP | S_IWOTH)) != 0 && !node.read_only;
}

class Walk {
 public:
  Walk(const Trust &trust, bool to_folder) : trust_(trust), to_folder_(to_folder) {}

  tl::expected<TrustedFile, std::string> open(const std::string &path);

 private:
  // Makes an open folder the current one when it is to be trusted.
  bool enter(UniqueFd fd, std::string path);
  bool follow(int link, std::vector<std::string> *todo);
  bool fail(std::string message) {
    error_ = std::move(message);
    return false;
  }
  std::string child(const std::string &name) const {
    if (name == "..") return here_.substr(0, std::max<std::size_t>(here_.rfind('/'), 1));
    return here_ == "/" ? "/" + name : here_ + "/" + name;
  }

  const Trust &trust_;
  const bool to_folder_;
  UniqueFd folder_;
  std::string here_;     // of folder_, for messages
  bool sticky_ = false;  // others may make entries in it
  int links_ = 0;
  std::string error_;
};

bool Walk::enter(UniqueFd fd, std::string path) {
  if (!fd) return fail(fmt::format("cannot open {}: {}", path, errno_text(errno)));
  Looked looked;
  if (!look(fd.get(), &looked)) {
    return fail(fmt::format("cannot look at {}: {}", path, errno_text(errno)));
  }
  std::string why = distrust(trust_, looked.node);
  if (!why.empty()) return fail(fmt::format("the folder {} {}", path, why));
  sticky_ = others_may_write(looked.node);
  folder_ = std::move(fd);
  here_ = std::move(path);
  return true;
}

bool Walk::follow(int link, std::vector<std::string> *todo) {
  Looked looked;
  if (++links_ > kMaxLinks) return fail("too many symbolic links");
  if (!look(link, &looked)) return fail(errno_text(errno));
  // Outside a sticky folder a link cannot be replaced by its owner.
  looked.node.mode = S_IFLNK;
  std::string why = sticky_ ? distrust(trust_, looked.node) : "";
  if (!why.empty()) return fail(fmt::format("a symbolic link in {} {}", here_, why));
  char target[PATH_MAX];
  ssize_t length = readlinkat(link, "", target, sizeof target);
  if (length <= 0 || length == sizeof target) return fail("an unreadable symbolic link");
  std::string_view path(target, static_cast<std::size_t>(length));
  push_path(path, todo);
  if (path.front() != '/') return true;
  return enter(UniqueFd(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)), "/");
}

tl::expected<TrustedFile, std::string> Walk::open(const std::string &path) {
  std::vector<std::string> todo;
  push_path(path, &todo);
  if (!enter(UniqueFd(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)), "/")) {
    return tl::unexpected(error_);
  }
  while (!todo.empty()) {
    std::string name = std::move(todo.back());
    todo.pop_back();
    UniqueFd entry(openat(folder_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    Looked looked;
    if (!entry || !look(entry.get(), &looked)) {
      return tl::unexpected(
          errno == ENOENT ? fmt::format("{} does not exist: create it or correct the path",
                                        child(name) == path ? "it" : child(name))
                          : fmt::format("cannot open {}: {}", child(name), errno_text(errno)));
    }
    if (S_ISLNK(looked.stat.st_mode)) {
      if (!follow(entry.get(), &todo)) return tl::unexpected(error_);
    } else if (S_ISDIR(looked.stat.st_mode)) {
      if (!enter(std::move(entry), child(name))) return tl::unexpected(error_);
    } else if (!todo.empty() || to_folder_) {
      return tl::unexpected(fmt::format("{} is no folder", child(name)));
    } else {
      std::string why = distrust(trust_, looked.node);
      if (!why.empty()) return tl::unexpected("the file " + why);
      if (!S_ISREG(looked.stat.st_mode)) return tl::unexpected<std::string>("not a regular file");
      // O_NONBLOCK: another file under this name by now may be a pipe.
      TrustedFile out{.fd = UniqueFd(openat(folder_.get(), name.c_str(),
                                            O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)),
                      .stat = {}};
      if (!out.fd) return tl::unexpected(fmt::format("cannot read it: {}", errno_text(errno)));
      Looked opened;
      if (!look(out.fd.get(), &opened) || opened.stat.st_dev != looked.stat.st_dev ||
          opened.stat.st_ino != looked.stat.st_ino) {
        return tl::unexpected<std::string>("replaced while it was opened: try again");
      }
      why = distrust(trust_, opened.node);
      if (!why.empty()) return tl::unexpected("the file " + why);
      out.stat = opened.stat;
      return out;
    }
  }
  if (!to_folder_) return tl::unexpected<std::string>("it is a folder, not a file");
  // Sticky or not: what does not exist yet has no owner.
  if (sticky_)
    return tl::unexpected(
        fmt::format("others may make files in the folder {}: chmod go-w it", here_));
  TrustedFile out{.fd = std::move(folder_), .stat = {}};
  if (fstat(out.fd.get(), &out.stat) != 0) return tl::unexpected(errno_text(errno));
  return out;
}

}  // namespace

UniqueFd &UniqueFd::operator=(UniqueFd &&other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

int UniqueFd::release() noexcept { return std::exchange(fd_, -1); }

Trust Trust::current(std::span<const uid_t> owners) {
  Trust out{.self = geteuid(), .unmapped = 65534, .owners = owners};
  UniqueFd fd(::open("/proc/sys/kernel/overflowuid", O_RDONLY | O_CLOEXEC));
  char buffer[16];
  ssize_t length = fd ? read(fd.get(), buffer, sizeof buffer) : -1;
  if (length > 0) std::from_chars(buffer, buffer + length, out.unmapped);
  out.self_is_one = out.self != out.unmapped || !identity::may_be_anybody(out.self);
  return out;
}

std::string distrust(const Trust &trust, const Node &node) {
  bool trusted =
      node.owner == 0 || (node.owner == trust.self && trust.self_is_one) ||
      std::find(trust.owners.begin(), trust.owners.end(), node.owner) != trust.owners.end() ||
      (node.owner == trust.unmapped && node.read_only);
  if (!trusted) {
    return fmt::format(
        "belongs to user {}, who could change it: chown it to root or to user {}, or "
        "name its owner with --config-owner",
        node.owner, trust.self);
  }
  if (!others_may_write(node)) return "";
  if (S_ISDIR(node.mode) && (node.mode & S_ISVTX) != 0) return "";
  return fmt::format("may be written by {} (mode {:04o}): chmod {} it",
                     (node.mode & S_IWOTH) != 0 ? "everyone" : "its group", node.mode & 07777,
                     (node.mode & S_IWOTH) != 0 ? "go-w" : "g-w");
}

tl::expected<TrustedFile, std::string> open_trusted(const std::string &path,
                                                    std::span<const uid_t> owners) {
  Trust trust = Trust::current(owners);
  return Walk(trust, false).open(path);
}

tl::expected<UniqueFd, std::string> open_trusted_folder(const std::string &path,
                                                        std::span<const uid_t> owners) {
  Trust trust = Trust::current(owners);
  return Walk(trust, true).open(path).map([](TrustedFile &&out) { return std::move(out.fd); });
}

}  // namespace inlay::policy
