#include "identity/agent/command.h"

#include <fmt/format.h>

#include <cstdio>
#include <string_view>

namespace inlay::identity::agent {
namespace {

constexpr int kExitUsage = 2;

constexpr std::string_view kHelp =
    R"(Usage: inlay agent --config FILE

Attests the processes of this machine, holds their keys and renews their SVIDs.

`inlay agent --version` prints the version.
)";

}  // namespace

int run_command(std::vector<std::string> words) {
  if (words.size() == 1 && words[0] == "--help") {
    fmt::print("{}", kHelp);
    return 0;
  }
  if (words.size() == 1 && words[0] == "--version") {
    fmt::print("inlay-agent " INLAY_VERSION "\n");
    return 0;
  }
  fmt::print(stderr, "inlay agent: see inlay agent --help\n");
  return kExitUsage;
}

}  // namespace inlay::identity::agent
