// inlay agent: a separate executable, found beside this one or in PATH.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "tools/commands.h"
#include "tools/companion.h"
#include "tools/exit_code.h"
#include "tools/text.h"

namespace inlay::tools {

void become_companion(const std::string &name, std::vector<std::string> words) {
  std::error_code error;
  std::filesystem::path beside =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / name;
  words.insert(words.begin(), name);
  std::vector<char *> arguments;
  for (std::string &word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execv(beside.c_str(), arguments.data());
  ::execvp(name.c_str(), arguments.data());
  complain(name + " is not installed beside inlay or in PATH; install it and try again");
  throw CLI::RuntimeError(kExitNotFound);
}

void add_agent_command(CLI::App &app) {
  auto *command = app.add_subcommand("agent", "Run the node agent (inlay-agent)");
  command->prefix_command();
  command->set_help_flag();
  command->callback([command] { become_companion("inlay-agent", command->remaining()); });
}

}  // namespace inlay::tools
