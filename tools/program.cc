#include "tools/program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "tools/exit_code.h"

namespace inlay::tools {
namespace {

// BINPRM_BUF_SIZE: what the kernel reads of a script's first line.
constexpr std::size_t kScriptHead = 256;
// The kernel gives up after this many interpreters of interpreters (exec_binprm in fs/exec.c).
constexpr std::size_t kMaxChain = 6;

tl::unexpected<ProgramError> cannot_execute(std::string message) {
  return tl::make_unexpected(ProgramError{kExitCannotExecute, std::move(message)});
}

std::string_view base_name(std::string_view path) {
  return path.substr(path.find_last_of('/') + 1);
}

// Nothing for a file that may be executed but not read.
std::optional<std::string> read_head(const std::string &path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return std::nullopt;
  std::string head(kScriptHead, '\0');
  ssize_t got = ::read(fd, head.data(), head.size());
  ::close(fd);
  head.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return head;
}

// The loader this command was linked for: another base name is another libc.
const std::string &own_loader() {
  static const std::string loader = [] {
    auto image = read_elf("/proc/self/exe", Imports::skip);
    return image ? std::string(base_name(image->interpreter)) : std::string();
  }();
  return loader;
}

std::string obstacle_of(const ElfImage &image) {
  if (image.bits != 64 || image.machine != own_machine()) {
    return fmt::format("is built for {} ({} bit), inlay for {}", machine_name(image.machine),
                       image.bits, machine_name(own_machine()));
  }
  bool is_loader = !image.soname.empty() && image.soname == own_loader();
  if (image.interpreter.empty() && !is_loader) {
    return image.go ? "is a static Go executable, which a preload cannot reach"
                    : "is statically linked, which a preload cannot reach";
  }
  std::string_view loader = base_name(image.interpreter);
  if (!is_loader && loader != own_loader()) {
    bool musl = loader.substr(0, 7) == "ld-musl";
    return fmt::format("uses {} ({}), inlay needs glibc ({})", musl ? "musl libc" : "another libc",
                       image.interpreter, own_loader());
  }
  if (image.go) return "is a Go executable, which makes its network calls past libc";
  return {};
}

// `#!/usr/bin/env NAME` and `#!/usr/bin/env -S NAME …` name the real interpreter by PATH.
std::string env_target(const ScriptLine &line) {
  if (base_name(line.interpreter) != "env") return {};
  std::string_view rest = line.argument;
  if (rest.substr(0, 2) == "-S") rest.remove_prefix(2);
  std::size_t start = rest.find_first_not_of(" \t");
  if (start == std::string_view::npos) return {};
  rest.remove_prefix(start);
  std::string_view word = rest.substr(0, rest.find_first_of(" \t"));
  bool plain = word[0] != '-' && word.find('=') == std::string_view::npos;
  return plain ? std::string(word) : std::string();
}

}  // namespace

tl::expected<std::string, ProgramError> find_command(const std::string &command) {
  std::vector<std::string> candidates;
  if (command.find('/') != std::string::npos) {
    candidates.push_back(command);
  } else if (!command.empty()) {
    const char *variable = std::getenv("PATH");
    std::string_view path = variable != nullptr ? variable : "/bin:/usr/bin";
    while (true) {
      std::size_t colon = path.find(':');
      std::string folder(path.substr(0, colon));
      candidates.push_back((folder.empty() ? "." : folder) + "/" + command);
      if (colon == std::string_view::npos) break;
      path.remove_prefix(colon + 1);
    }
  }
  std::string refused;
  for (const std::string &candidate : candidates) {
    struct stat status {};
    if (::stat(candidate.c_str(), &status) != 0) {
      if (errno == EACCES && refused.empty()) {
        refused = candidate + ": permission denied on the way to it";
      }
      continue;
    }
    if (S_ISREG(status.st_mode) && ::eaccess(candidate.c_str(), X_OK) == 0) return candidate;
    if (refused.empty()) {
      refused = candidate + (S_ISDIR(status.st_mode)    ? ": is a folder, not a program"
                             : !S_ISREG(status.st_mode) ? ": not a regular file"
                                                        : ": not executable; chmod +x it");
    }
  }
  if (!refused.empty()) return cannot_execute(refused);
  bool by_path = command.find('/') == std::string::npos;
  return tl::make_unexpected(ProgramError{
      kExitNotFound, fmt::format("{}: no such command{}", command.empty() ? "''" : command,
                                 by_path ? " in PATH" : "")});
}

ScriptLine parse_script_line(std::string_view head) {
  if (head.substr(0, 2) != "#!") return {};
  std::string_view line = head.substr(2, head.find('\n') - 2);
  auto trim = [](std::string_view text) {
    std::size_t start = text.find_first_not_of(" \t");
    if (start == std::string_view::npos) return std::string_view();
    return text.substr(start, text.find_last_not_of(" \t") - start + 1);
  };
  line = trim(line.substr(0, line.find('\0')));
  std::size_t end = line.find_first_of(" \t");
  ScriptLine script;
  script.interpreter = line.substr(0, end);
  if (end != std::string_view::npos) script.argument = trim(line.substr(end));
  return script;
}

std::string secure_execution(const std::string &path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return {};
  uid_t user = ::getuid();
  gid_t group = ::getgid();
  uid_t effective_user = ::geteuid();
  gid_t effective_group = ::getegid();
  bool setuid_bit = false;
  bool setgid_bit = false;
  // Both mount option and flag make execve ignore set-ID bits and file capabilities.
  struct statvfs mount {};
  bool ignored = ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ||
                 (::statvfs(path.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0);
  if (!ignored) {
    setuid_bit = (status.st_mode & S_ISUID) != 0;
    setgid_bit = (status.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
    if (setuid_bit) effective_user = status.st_uid;
    if (setgid_bit) effective_group = status.st_gid;
  }
  // cap_bprm_creds_from_file in security/commoncap.c.
  if (effective_user != user)
    return setuid_bit ? "is set-user-ID" : "would run with another user ID";
  if (effective_group != group) {
    return setgid_bit ? "is set-group-ID" : "would run with another group ID";
  }
  if (ignored || user == 0) return {};
  struct vfs_ns_cap_data capabilities {};
  ssize_t size =
      ::getxattr(path.c_str(), "security.capability", &capabilities, sizeof(capabilities));
  if (size < static_cast<ssize_t>(XATTR_CAPS_SZ_1)) return {};
  bool any = (capabilities.magic_etc & VFS_CAP_FLAGS_EFFECTIVE) != 0;
  for (const auto &word : capabilities.data)
    any = any || word.permitted != 0 || word.inheritable != 0;
  return any ? "has file capabilities" : std::string();
}

tl::expected<Program, ProgramError> examine(const std::string &command, Imports imports) {
  auto found = find_command(command);
  if (!found) return tl::make_unexpected(found.error());
  Program program;
  program.path = *found;
  std::string file = *found;
  while (true) {
    program.chain.push_back(file);
    if (program.chain.size() > kMaxChain) {
      return cannot_execute(program.path + ": too many interpreters of interpreters");
    }
    auto head = read_head(file);
    if (!head) {
      program.obstacle = "cannot be read, so inlay cannot tell what it is";
      return program;
    }
    if (is_elf(*head)) break;
    ScriptLine line = parse_script_line(*head);
    std::string next = line.interpreter;
    if (next.empty()) {
      // execve says ENOEXEC; execvp then hands the file to the shell, unless binfmt_misc takes it.
      if (head->find('\0') != std::string::npos) {
        return cannot_execute(file + ": neither an ELF executable nor a script");
      }
      next = "/bin/sh";
    }
    std::string by_env = env_target(line);
    auto interpreter = find_command(next.find('/') == std::string::npos ? "./" + next : next);
    if (interpreter && !by_env.empty()) {
      program.chain.push_back(*interpreter);
      interpreter = find_command(by_env);
    }
    if (!interpreter) {
      return tl::make_unexpected(
          ProgramError{interpreter.error().exit_code,
                       file + ": its interpreter cannot be run: " + interpreter.error().message});
    }
    file = *interpreter;
  }
  auto image = read_elf(file, imports);
  if (!image) return cannot_execute(file + ": damaged executable: " + image.error().message);
  program.image = std::move(*image);
  program.obstacle = obstacle_of(program.image);
  if (program.obstacle.empty()) {
    std::string secure = secure_execution(file);
    if (!secure.empty()) program.obstacle = secure + ", for which the loader drops preloads";
  }
  return program;
}

}  // namespace inlay::tools
