// inlay agent, enroll and leave: a separate executable, found beside this one, in the build tree or
// in PATH.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tools/commands.h"
#include "tools/companion.h"
#include "tools/drop_in.h"
#include "tools/exit_code.h"
#include "tools/systemctl.h"
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

namespace {

// They do not start without an agent, and taking their protection away is for their administrator.
void name_services_left() {
  for (const std::string &unit : units_with_drop_in(::geteuid() != 0, kDropInName)) {
    complain(unit + " is under inlay still, and will not start without an agent: inlay disable " +
             unit);
  }
}

}  // namespace

void add_agent_command(const Command &root) {
  root.pass_on("agent", [](std::vector<std::string> words) {
    become_companion("inlay-agent", std::move(words));
  });
  for (const char *name : {"enroll", "leave"}) {
    root.pass_on(name, [name](std::vector<std::string> words) {
      const bool asks_for_help = std::find(words.begin(), words.end(), "--help") != words.end();
      if (name == std::string_view("leave") && !asks_for_help) name_services_left();
      words.insert(words.begin(), name);
      become_companion("inlay-agent", std::move(words));
    });
  }
}

}  // namespace inlay::tools
