// inlay agent, enroll and leave: a separate executable, found beside this one, in the build tree or in PATH.
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tools/commands.h"
#include "tools/companion.h"
#include "tools/exit_code.h"
#include "tools/text.h"

namespace inlay::tools {

void become_companion(const std::string &name, std::vector<std::string> words) {
  std::error_code error;
  std::filesystem::path folder =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  std::filesystem::path beside = folder / name;
  std::filesystem::path built =  // inlay-agent of identity/agent in the build tree
      folder.parent_path() / "identity" / name.substr(name.find('-') + 1) / name;
  words.insert(words.begin(), name);
  std::vector<char *> arguments;
  for (std::string &word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execv(beside.c_str(), arguments.data());
  ::execv(built.c_str(), arguments.data());
  ::execvp(name.c_str(), arguments.data());
  complain(name + " is not installed beside inlay or in PATH; install it and try again");
  throw Exit{kExitNotFound};
}

void add_agent_command(const Command &root) {
  root.pass_on("agent", [](std::vector<std::string> words) {
    become_companion("inlay-agent", std::move(words));
  });
  for (const char *name : {"enroll", "leave"}) {
    root.pass_on(name, [name](std::vector<std::string> words) {
      words.insert(words.begin(), name);
      become_companion("inlay-agent", std::move(words));
    });
  }
}

}  // namespace inlay::tools
