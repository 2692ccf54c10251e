// inlay status: who this machine and its workloads are, by its agent.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "identity/agent_address.h"
#include "identity/agent_client.h"
#include "tools/commands.h"
#include "tools/enabled_services.h"
#include "tools/exit_code.h"
#include "tools/status_text.h"
#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kHelp =
    R"(Usage: inlay status [--json] [--agent unix:///PATH]

Shows in one screen what this machine's agent knows: the identities, when each SVID expires and
renews, the processes that have them, the authorities trusted, what is wrong and what to do.
A process is there from its first connection on. Root and the agent's own user see everything,
others what is their own.

Ready means: every identity shown has an SVID that has not expired.

Options:
  --json                the agent's report as one JSON object; times in UTC, and KEY_in in seconds
  --agent unix:///PATH  the agent's socket; without it /run/inlay/agent.sock, then
                        $XDG_RUNTIME_DIR/inlay/agent.sock

Exit codes: 0 ready, 1 not ready, 2 usage, 125 the agent could not be asked
)";

struct Options {
  bool json = false;
  std::string agent;
};

[[noreturn]] void end_unasked(const std::string &why) {
  complain(why);
  throw Exit{kExitInlayFailed};
}

std::vector<std::string> sockets_of(const std::string &agent) {
  if (agent.empty()) return identity::standard_agent_sockets();
  auto path = identity::parse_agent_address(agent);
  if (!path) throw UsageError{"--agent " + agent + ": " + path.error()};
  return {std::move(*path)};
}

// A service of this machine's, or of this user's, that is not started as its unit says.
std::vector<LocalProblem> problems_of_services() {
  std::vector<LocalProblem> problems;
  for (const bool of_user : {false, true}) {
    for (EnabledService &service : enabled_services(of_user)) {
      if (service.problem.empty()) continue;
      problems.push_back({service.unit + ": " + service.problem, std::move(service.to_do)});
    }
  }
  return problems;
}

void show_status(const Options &options) {
  auto client = identity::AgentClient::connect(sockets_of(options.agent));
  if (!client) end_unasked(client.error().message);
  const auto answer = client->ask(identity::AgentFrame::status, "");
  if (!answer) end_unasked(answer.error().message);
  const auto status = read_status(answer->bytes, problems_of_services());
  if (!status) end_unasked(status.error());
  const std::string &text = options.json ? status->json : status->text;
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (!status->ready) throw Exit{kExitFailed};
}

}  // namespace

void add_status_command(const Command &root) {
  auto options = std::make_shared<Options>();
  const Command command = root.subcommand("status", kHelp);
  command.flag("--json", options->json);
  command.option("--agent", options->agent);
  command.callback([options] { show_status(*options); });
}

}  // namespace inlay::tools
