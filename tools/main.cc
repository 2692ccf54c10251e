// The `inlay` command: each subcommand is in the file of its name.
#include <algorithm>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/command_words.h"
#include "tools/commands.h"
#include "tools/exit_code.h"
#include "tools/text.h"

namespace {

constexpr std::string_view kHelp =
    R"(Usage: inlay COMMAND [OPTIONS]

Gives an unmodified program a SPIFFE identity: its TCP connections become mutual TLS 1.3, and a
configuration decides who may talk to whom. No proxy, no root, no change to the program.

Commands:
  run      start a program with an identity
  doctor   say beforehand what inlay will do to a program, and what it cannot
  log      show what was refused, cut or let through, and why
  policy   check a configuration, explain what it does with a connection
  ca       make a development authority, issue identities; run the authority of many machines
  agent    start the node agent, where inlay-agent is installed
  enroll   make this machine a member of an authority's trust domain; leave takes that back
  enable   put a systemd service under inlay; disable takes that back
  status   show what the agent knows: identities, when they renew, what is wrong

Example: a development authority, an identity, a program that uses it
  inlay ca init --dir authority --trust-domain example.org
  inlay ca issue --dir authority --id spiffe://example.org/redis --out redis
  inlay run --config redis.toml -- redis-server --port 6379
  inlay log

`inlay COMMAND --help` explains one command; `inlay --version` prints the version.
Exit codes: 0 good, 1 bad or refused, 2 usage; `inlay run` uses 125 to 127, as its help says.
)";

// A usage error is one line too: what, and where to read more.
int usage_error(const std::string &command, const std::string &message) {
  inlay::tools::complain((command.empty() ? "" : command + ": ") + message + "; see inlay " +
                         (command.empty() ? "" : command + " ") + "--help");
  return command == "run" ? inlay::tools::kExitInlayFailed : inlay::tools::kExitUsage;
}

}  // namespace

int main(int argc, char **argv) {
  using namespace inlay::tools;
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  std::string command = !words.empty() && words[0][0] != '-' ? words[0] : "";
  if (command == "run" || command == "doctor") {
    SplitWords split = split_command({words.begin() + 1, words.end()});
    command_words() = std::move(split.command);
    words = std::move(split.own);
    words.insert(words.begin(), command);
  }
  CommandLine command_line(kHelp, "inlay " INLAY_VERSION);
  const Command root = command_line.root();
  add_run_command(root);
  add_doctor_command(root);
  add_log_command(root);
  add_policy_command(root);
  add_ca_command(root);
  add_agent_command(root);
  add_status_command(root);
  add_enable_commands(root);
  if (command.empty() && words.empty()) {
    complain("no command given; see inlay --help");
    return kExitUsage;
  }
  if (!command.empty() && !command_line.has_subcommand(command)) {
    complain("there is no command '" + command + "'; see inlay --help");
    return kExitUsage;
  }
  try {
    command_line.run(std::move(words));
  } catch (const Exit &exit) {
    return exit.code;
  } catch (const UsageError &error) {
    return usage_error(command, error.message);
  } catch (const std::exception &error) {
    complain(error.what());
    return command == "run" ? kExitInlayFailed : kExitFailed;
  }
  return 0;
}
