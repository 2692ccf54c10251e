#include "tools/loaded_objects.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "tools/elf_image.h"

namespace inlay::tools {
namespace {

constexpr std::size_t kMaxOutput = 1 << 20;

// The environment without what would load further objects into the listing.
std::vector<char *> plain_environment() {
  std::vector<char *> plain;
  for (char **variable = environ; *variable != nullptr; ++variable) {
    std::string_view text(*variable);
    bool skip = text.substr(0, 11) == "LD_PRELOAD=" || text.substr(0, 9) == "LD_AUDIT=" ||
                text.substr(0, 9) == "LD_DEBUG=";
    if (!skip) plain.push_back(*variable);
  }
  plain.push_back(nullptr);
  return plain;
}

}  // namespace

LoadedObjects parse_loader_list(std::string_view output) {
  LoadedObjects objects;
  while (!output.empty()) {
    std::size_t end = output.find('\n');
    std::string_view line = output.substr(0, end);
    output.remove_prefix(end == std::string_view::npos ? output.size() : end + 1);
    std::size_t start = line.find_first_not_of(" \t");
    if (start == std::string_view::npos) continue;
    line.remove_prefix(start);
    std::size_t arrow = line.find(" => ");
    if (arrow != std::string_view::npos) {
      std::string_view target = line.substr(arrow + 4);
      if (target == "not found") {
        objects.missing.emplace_back(line.substr(0, arrow));
        continue;
      }
      line = target;
    }
    std::size_t address = line.rfind(" (0x");
    if (address == std::string_view::npos || line[0] != '/') continue;
    std::string_view path = line.substr(0, address);
    if (path.substr(path.find_last_of('/') + 1).substr(0, 8) != "ld-linux") {
      objects.paths.emplace_back(path);
    }
  }
  return objects;
}

tl::expected<LoadedObjects, std::string> loaded_objects(const std::string &program) {
  auto self = read_elf("/proc/self/exe", Imports::skip);
  if (!self || self->interpreter.empty()) return tl::make_unexpected("cannot find the loader");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return tl::make_unexpected(std::string(std::strerror(errno)));
  std::string loader = self->interpreter;
  std::string list = "--list";
  std::string path = program;
  char *arguments[] = {loader.data(), list.data(), path.data(), nullptr};
  std::vector<char *> environment = plain_environment();
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = -1;
  int error =
      ::posix_spawn(&child, loader.c_str(), &actions, nullptr, arguments, environment.data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string output;
  char buffer[4096];
  while (error == 0 && output.size() < kMaxOutput) {
    ssize_t got = ::read(ends[0], buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    output.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  if (error != 0) return tl::make_unexpected(loader + ": " + std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return parse_loader_list(output);
}

}  // namespace inlay::tools
