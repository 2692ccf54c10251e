#include "tools/unit_sandbox.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

namespace inlay::tools {
namespace {

constexpr std::string_view kService = "Service";

// What libinlay.so and `inlay run` call at start, for a handshake and for data, beyond what every
// program does that has a connection.
constexpr std::array kCalls = {"clone3",         "clone",
                               "close",          "connect",
                               "dup3",           "epoll_create1",
                               "epoll_ctl",      "epoll_wait",
                               "epoll_pwait",    "eventfd2",
                               "execve",         "faccessat",
                               "fchmodat",       "fcntl",
                               "fstat",          "ftruncate",
                               "futex",          "geteuid",
                               "getpeername",    "getrandom",
                               "getsockname",    "getsockopt",
                               "gettid",         "ioctl",
                               "lseek",          "madvise",
                               "memfd_create",   "mkdirat",
                               "mmap",           "mprotect",
                               "munmap",         "newfstatat",
                               "openat",         "ppoll",
                               "prctl",          "pread64",
                               "prlimit64",      "process_vm_readv",
                               "read",           "readlinkat",
                               "recvfrom",       "recvmsg",
                               "rt_sigprocmask", "sendmsg",
                               "sendto",         "setsockopt",
                               "shutdown",       "sigaltstack",
                               "socket",         "write"};

std::string without_marks(std::string_view path) {
  while (path.starts_with('-') || path.starts_with('+')) path.remove_prefix(1);
  return std::filesystem::path(path).lexically_normal().string();
}

bool is_within(std::string_view path, std::string_view folder) {
  while (folder.size() > 1 && folder.ends_with('/')) folder.remove_suffix(1);
  return folder == "/" || path == folder ||
         (path.starts_with(folder) && path.substr(folder.size()).starts_with('/'));
}

void add_calls(std::set<std::string> &calls, const std::string &name, bool add,
               const SystemCallGroups &groups) {
  if (const auto group = groups.find(name); group != groups.end()) {
    for (const std::string &member : group->second) add_calls(calls, member, add, groups);
  } else if (add) {
    calls.insert(name);
  } else {
    calls.erase(name);
  }
}

// How a path is hidden from the service.
struct Hidden {
  std::string by;            // the setting, as written; "" = it is not
  bool is_bindable = false;  // something may be mounted there again
};

Hidden hidden(const UnitSettings &unit, std::string_view path) {
  for (const std::string &word : unit.words(kService, "InaccessiblePaths")) {
    if (is_within(path, without_marks(word))) return {"InaccessiblePaths=" + word, false};
  }
  const std::string home = unit.last(kService, "ProtectHome");
  if (is_yes(home) || home == "tmpfs") {
    for (const std::string_view folder : {"/home", "/root", "/run/user"}) {
      if (is_within(path, folder)) return {"ProtectHome=" + home, home == "tmpfs"};
    }
  }
  for (const std::string &word : unit.words(kService, "TemporaryFileSystem")) {
    const std::string folder = without_marks(word.substr(0, word.find(':')));
    if (is_within(path, folder)) return {"TemporaryFileSystem=" + word, true};
  }
  const std::string tmp = unit.last(kService, "PrivateTmp");
  if (is_yes(tmp) || tmp == "disconnected" || unit.is_on(kService, "DynamicUser")) {
    for (const std::string_view folder : {"/tmp", "/var/tmp"}) {
      if (is_within(path, folder)) {
        return {is_yes(tmp) || !tmp.empty() ? "PrivateTmp=" + tmp : "DynamicUser=yes", false};
      }
    }
  }
  return {};
}

// Each file that is needed, and for a socket its folder: it comes anew when the agent starts.
void judge_paths(const UnitSettings &unit, const SandboxNeeds &needs, SandboxJudgement &out) {
  std::set<std::string> shown;
  for (const std::string *path : {&needs.command, &needs.library, &needs.config, &needs.agent}) {
    if (path->empty()) continue;
    const Hidden how = hidden(unit, *path);
    if (how.by.empty()) continue;
    if (how.is_bindable) {
      shown.insert(std::filesystem::path(*path).parent_path().string());
    } else {
      out.refusals.push_back(fmt::format("{} hides {} from it", how.by, *path));
    }
  }
  for (const std::string &folder : shown) {
    out.additions.push_back("BindReadOnlyPaths=" + folder);
  }
}

void judge_execution(const UnitSettings &unit, const SandboxNeeds &needs, SandboxJudgement &out) {
  if (unit.words(kService, "NoExecPaths").empty()) return;
  out.additions.push_back(fmt::format("ExecPaths={} {}", needs.command, needs.library));
}

void judge_families(const UnitSettings &unit, const SandboxNeeds &needs, SandboxJudgement &out) {
  const std::vector<std::string> words = unit.words(kService, "RestrictAddressFamilies");
  if (needs.agent.empty() || words.empty()) return;
  const bool is_deny_list = words.front().starts_with('~');
  bool named = false;
  for (const std::string &word : words) {
    if (word == "AF_UNIX" || word == "~AF_UNIX") named = true;
  }
  if (named == is_deny_list) out.additions.emplace_back("RestrictAddressFamilies=AF_UNIX");
}

// libinlay.so's log of a process is a file there.
void judge_log(const UnitSettings &unit, SandboxJudgement &out) {
  bool read_only =
      unit.last(kService, "ProtectSystem") == "strict" ||
      (unit.is_on(kService, "DynamicUser") && unit.last(kService, "ProtectSystem").empty());
  for (const std::string &word : unit.words(kService, "ReadOnlyPaths")) {
    read_only = read_only || is_within("/run/inlay/log", without_marks(word));
  }
  if (hidden(unit, "/run/inlay/log").is_bindable) {
    out.additions.emplace_back("BindPaths=-/run/inlay/log");
  }
  if (read_only) out.additions.emplace_back("ReadWritePaths=-/run/inlay/log");
}

}  // namespace

SystemCallGroups parse_system_call_groups(std::string_view text) {
  SystemCallGroups groups;
  std::vector<std::string> *group = nullptr;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    const std::vector<std::string> words = split_words(line);
    if (words.empty() || words[0].starts_with('#')) continue;
    if (line.starts_with('@')) {
      group = &groups[words[0]];
    } else if (group != nullptr && (line.starts_with(' ') || line.starts_with('\t'))) {
      group->push_back(words[0]);
    } else {
      group = nullptr;
    }
  }
  return groups;
}

std::vector<std::string> filtered_calls(const UnitSettings &unit, const SystemCallGroups &groups,
                                        bool strict) {
  const std::vector<std::string> values = unit.list(kService, "SystemCallFilter");
  if (values.empty()) return {};
  const bool is_deny_list = values.front().starts_with('~');
  std::set<std::string> listed;
  if (!is_deny_list) add_calls(listed, "@default", true, groups);
  for (std::string_view value : values) {
    const bool inverted = value.starts_with('~');
    if (inverted) value.remove_prefix(1);
    for (const std::string &word : split_words(value)) {
      add_calls(listed, word.substr(0, word.find(':')), inverted == is_deny_list, groups);
    }
  }
  std::vector<std::string> missing;
  for (const char *call : kCalls) {
    if (listed.contains(call) == is_deny_list) missing.emplace_back(call);
  }
  if (strict && listed.contains("seccomp") == is_deny_list) missing.emplace_back("seccomp");
  return missing;
}

SandboxJudgement judge_sandbox(const UnitSettings &unit, const SandboxNeeds &needs,
                               const SystemCallGroups &groups) {
  SandboxJudgement out;
  for (const char *key : {"RootDirectory", "RootImage"}) {
    const std::string root = unit.last(kService, key);
    if (!root.empty() && root != "/") {
      out.refusals.push_back(
          fmt::format("{}={}: it has a root of its own, without inlay in it", key, root));
    }
  }
  for (const char *key : {"AppArmorProfile", "SELinuxContext", "SmackProcessLabel"}) {
    const std::string label = unit.last(kService, key);
    if (!label.empty()) {
      out.refusals.push_back(fmt::format(
          "{}={}: the kernel may start it so that the loader drops preloads", key, label));
    }
  }
  if (unit.last(kService, "TasksMax") == "1") {
    out.refusals.emplace_back("TasksMax=1: inlay needs a thread of its own");
  }
  judge_paths(unit, needs, out);
  judge_execution(unit, needs, out);
  judge_families(unit, needs, out);
  judge_log(unit, out);
  if (const auto missing = filtered_calls(unit, groups, needs.strict); !missing.empty()) {
    out.additions.push_back(fmt::format("SystemCallFilter={}", fmt::join(missing, " ")));
  }
  return out;
}

}  // namespace inlay::tools
