#include "identity/agent/workload.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <optional>

#include "identity/user_namespace.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

using policy::UniqueFd;

constexpr std::size_t kMaxProcFile = 256 * 1024;  // 65536 groups are longer than the rest
constexpr char kGone[] = "the process has ended";

template <typename T>
std::optional<T> number(std::string_view text) {
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) break;
    text.remove_prefix(begin);
    std::size_t end = std::min(text.find_first_of(" \t"), text.size());
    out.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return out;
}

// One process's folder. The kernel ties it to the process, not to the number: once that has ended,
// everything in it is ESRCH, whoever has the pid then.
class ProcFolder {
 public:
  explicit ProcFolder(pid_t pid)
      : fd_(open(fmt::format("/proc/{}", pid).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {}
  explicit operator bool() const { return static_cast<bool>(fd_); }

  tl::expected<std::string, int> text(const char *name) const {
    UniqueFd file(openat(fd_.get(), name, O_RDONLY | O_CLOEXEC));
    if (!file) return tl::unexpected(errno);
    std::string out;
    for (std::array<char, 4096> buffer;;) {
      ssize_t got = read(file.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return tl::unexpected(errno);
      if (got == 0) return out;
      out.append(buffer.data(), static_cast<std::size_t>(got));
      if (out.size() > kMaxProcFile) return tl::unexpected(EFBIG);
    }
  }
  // O_PATH: nothing of the file itself is touched.
  UniqueFd executable() const { return UniqueFd(openat(fd_.get(), "exe", O_PATH | O_CLOEXEC)); }

 private:
  UniqueFd fd_;
};

struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool operator==(const FileIdentity &) const = default;
};

// AT_STATX_DONT_SYNC: what is known already will do. A program on a file system of the caller's own
// (FUSE) could otherwise keep the agent waiting.
std::optional<FileIdentity> file_identity(int folder, const char *path) {
  struct statx status {};
  if (statx(folder, path, AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO,
            &status) != 0) {
    return std::nullopt;
  }
  return FileIdentity{(std::uint64_t{status.stx_dev_major} << 32) | status.stx_dev_minor,
                      status.stx_ino};
}

std::string path_of(int fd) {
  std::array<char, PATH_MAX> path;
  ssize_t length = readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), path.data(), path.size());
  if (length <= 0 || static_cast<std::size_t>(length) == path.size()) return "";
  return {path.data(), static_cast<std::size_t>(length)};
}

// Field 22, counted from behind the program's name, which may hold anything (proc(5)). Empty for
// what has ended, reaped or not.
std::optional<std::uint64_t> start_time(std::string_view stat) {
  std::size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  std::vector<std::string_view> fields = words(stat.substr(name_end + 1));
  constexpr std::size_t kState = 0, kStartTime = 22 - 3;
  if (fields.size() <= kStartTime || fields[kState] == "Z" || fields[kState] == "X") {
    return std::nullopt;
  }
  return number<std::uint64_t>(fields[kStartTime]);
}

struct Status {
  std::array<uid_t, 3> uids{};  // real, effective, saved
  std::array<gid_t, 3> gids{};
  std::vector<gid_t> groups;
  pid_t tracer = 0;
};

std::optional<Status> parse_status(std::string_view text) {
  Status out;
  int found = 0;
  while (!text.empty()) {
    std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    std::string_view key = line.substr(0, colon);
    std::vector<std::string_view> values = words(line.substr(colon + 1));
    if (key == "Uid" || key == "Gid") {
      if (values.size() < 3) return std::nullopt;
      for (std::size_t i = 0; i < 3; ++i) {
        auto id = number<uid_t>(values[i]);
        if (!id) return std::nullopt;
        (key == "Uid" ? out.uids : out.gids)[i] = *id;
      }
      ++found;
    } else if (key == "Groups") {
      for (std::string_view value : values) {
        auto group = number<gid_t>(value);
        if (!group) return std::nullopt;
        out.groups.push_back(*group);
      }
      ++found;
    } else if (key == "TracerPid") {
      auto tracer = values.size() == 1 ? number<pid_t>(values[0]) : std::nullopt;
      if (!tracer) return std::nullopt;
      out.tracer = *tracer;
      ++found;
    }
  }
  return found == 4 ? std::optional(out) : std::nullopt;
}

// The line of the unified hierarchy, "0::/system.slice/redis.service" (cgroups(7)).
std::string unified_cgroup(std::string_view text) {
  while (!text.empty()) {
    std::size_t end = std::min(text.find('\n'), text.size());
    if (text.starts_with("0::")) return std::string(text.substr(3, end - 3));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return "";
}

bool ended(int pidfd) {
  return syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0) != 0 && errno == ESRCH;
}

std::string unreadable(const char *what, int error) {
  if (error == ESRCH || error == ENOENT) return kGone;
  const char *why = strerrordesc_np(error);
  return fmt::format("{} cannot be read: {}", what, why != nullptr ? why : "error");
}

// `uid`: one of its three, unless it is another's process that is asked about.
tl::expected<Workload, std::string> examine_process(pid_t pid, std::optional<uid_t> uid,
                                                    int pidfd) {
  // 0: the kernel has no number for it in the agent's PID namespace.
  if (pid <= 0) {
    return tl::unexpected<std::string>("the process is in a PID namespace the agent cannot see");
  }
  ProcFolder folder(pid);
  if (!folder) return tl::unexpected(unreadable("/proc", errno));
  auto failed = [](const char *what, int error) { return tl::unexpected(unreadable(what, error)); };

  auto stat = folder.text("stat");
  if (!stat) return failed("its state", stat.error());
  auto started = start_time(*stat);
  if (!started) return tl::unexpected<std::string>(kGone);
  auto status_text = folder.text("status");
  if (!status_text) return failed("its status", status_text.error());
  auto status = parse_status(*status_text);
  if (!status) return tl::unexpected<std::string>("its status is not understood");
  // A process may claim any of its three uids to the kernel, no other.
  if (uid && std::find(status->uids.begin(), status->uids.end(), *uid) == status->uids.end()) {
    return tl::unexpected<std::string>("it has changed its user since it asked");
  }
  if (!everybody_is_mapped()) {
    if (std::ranges::any_of(status->uids, may_be_anybody) ||
        std::ranges::any_of(status->gids, may_be_any_group)) {
      return tl::unexpected<std::string>(
          "its user or group has no number of its own in the agent's user namespace");
    }
    std::erase_if(status->groups, may_be_any_group);
  }
  UniqueFd executable = folder.executable();
  if (!executable) return failed("its executable", errno);
  auto file = file_identity(executable.get(), "");
  if (!file) return failed("its executable", errno);
  auto cgroup = folder.text("cgroup");
  if (!cgroup) return failed("its cgroup", cgroup.error());

  Workload out{.pid = pid,
               .start_time = *started,
               .uid = status->uids[1],
               .gid = status->gids[1],
               .groups = std::move(status->groups),
               .executable = path_of(executable.get()),
               .executable_device = file->device,
               .executable_inode = file->inode,
               .cgroup = unified_cgroup(*cgroup),
               .tracer = status->tracer};
  out.executable_in_place =
      out.executable.starts_with('/') && file_identity(AT_FDCWD, out.executable.c_str()) == file;
  out.unit = unit_of_cgroup(out.cgroup);

  // The folder is of one process; here that it was the caller's, and that this is one program: an
  // exec between two of the readings would have mixed two.
  UniqueFd again = folder.executable();
  if (!again || file_identity(again.get(), "") != file) {
    return tl::unexpected<std::string>("it has executed another program since it asked");
  }
  if (pidfd >= 0 && ended(pidfd)) return tl::unexpected<std::string>(kGone);
  return out;
}

}  // namespace

tl::expected<Workload, std::string> examine(const Caller &caller, int pidfd) {
  return examine_process(caller.pid, caller.uid, pidfd);
}

tl::expected<Workload, std::string> examine_any(pid_t pid) {
  return examine_process(pid, std::nullopt, -1);
}

tl::expected<Program, std::string> look_at_program(const std::string &path) {
  UniqueFd file(open(path.c_str(), O_PATH | O_CLOEXEC));
  struct stat status {};
  auto identity = file ? file_identity(file.get(), "") : std::nullopt;
  if (!identity || fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return tl::unexpected<std::string>("there is no such program where the agent runs");
  }
  return Program{path_of(file.get()), identity->device, identity->inode};
}

std::uint64_t start_time_of(pid_t pid) {
  ProcFolder folder(pid);
  auto stat = folder ? folder.text("stat") : tl::unexpected(ESRCH);
  return stat ? start_time(*stat).value_or(0) : 0;
}

std::string unit_of_cgroup(std::string_view path) {
  // Seen from another cgroup namespace there are "..": what is outermost cannot be told.
  if (!path.starts_with('/') || path.find("/..") != std::string_view::npos) return "";
  while (!path.empty()) {
    path.remove_prefix(1);
    std::string_view name = path.substr(0, path.find('/'));
    path.remove_prefix(name.size());
    if (name.ends_with(".slice")) continue;
    // systemd puts a "_" before names that the kernel could mistake for its own files.
    if (name.starts_with('_')) name.remove_prefix(1);
    for (std::string_view kind : {".service", ".scope", ".socket", ".mount", ".swap"}) {
      if (name.size() > kind.size() && name.ends_with(kind)) return std::string(name);
    }
    return "";
  }
  return "";
}

}  // namespace inlay::identity::agent
