// inlay run: check everything that can be checked, then become the command. What the program does
// afterwards is libinlay.so's; this process leaves nothing behind but its environment.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "identity/agent_address.h"
#include "policy/load.h"
#include "tools/agent_check.h"
#include "tools/command_words.h"
#include "tools/commands.h"
#include "tools/containment.h"
#include "tools/exit_code.h"
#include "tools/identity_check.h"
#include "tools/preload.h"
#include "tools/program.h"
#include "tools/resolve.h"
#include "tools/settings.h"
#include "tools/snapshot_fd.h"
#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kHelp =
    R"(Usage: inlay run [OPTIONS] [--] COMMAND [ARG…]

Checks the configuration, the identity and the command, then executes the command in its own place:
same process ID, terminal, signals and exit code. Its TCP connections follow the configuration.

Options:
  --config FILE         the configuration; without it $INLAY_CONFIG, then
                        $XDG_CONFIG_HOME/inlay/config.toml, then /etc/inlay/config.toml, then
                        the agent at its standard socket, which knows the policy of those it
                        attests; unix:///PATH names an agent's socket
  --strict              deny what the defaults would let through in the clear, and keep what goes
                        past libinlay.so (static programs, system calls in machine code, io_uring)
                        from making TCP sockets; sudo, ping and others that live on set-user-ID or
                        file capabilities gain no privilege then, in all that COMMAND starts
  --allow-unprotected   start the command even if inlay cannot get into it (static, set-user-ID, …)
  --argv0 NAME          what the command is told its own name is
  --config-owner UID    a further user who may own the configuration and its folders; repeatable

Examples:
  inlay run --config redis.toml -- redis-server --port 6379
  INLAY_CONFIG=app.toml inlay run -- redis-cli ping
  inlay run -- redis-cli ping                 an agent is running on this machine

Exit codes:
  125   inlay failed: usage, configuration or identity; the command was not started
  126   the command cannot be executed, or cannot be protected (`inlay doctor COMMAND` says why)
  127   no such command
        any other is the command's own
)";

constexpr int kResolveSeconds = 5;

struct Options {
  std::string config;
  std::vector<uid_t> owners;
  bool strict = false;
  bool allow_unprotected = false;
  std::string argv0;
};

[[noreturn]] void fail(int code, const std::string &message) {
  complain(message);
  throw Exit{code};
}

// The library reads the configuration itself where it gets no snapshot: in programs that the
// command starts after it closed its own.
void set_environment(const Options &options, const std::string &config,
                     const std::string &library) {
  const char *preload = std::getenv("LD_PRELOAD");
  ::setenv("LD_PRELOAD", preload_list(preload == nullptr ? "" : preload, library).c_str(), 1);
  ::setenv("INLAY_CONFIG", config.c_str(), 1);
  if (options.strict) ::setenv("INLAY_STRICT", "1", 1);
  // One inherited from an `inlay run` around this one is not what was checked here.
  ::unsetenv("INLAY_CONFIG_OWNER");
  if (!options.owners.empty()) {
    ::setenv("INLAY_CONFIG_OWNER", fmt::format("{}", fmt::join(options.owners, ",")).c_str(), 1);
  }
  ::unsetenv("INLAY_SNAPSHOT");
}

// A strict `inlay run` around this one cannot be softened from inside.
bool inherited_strict() {
  const char *value = std::getenv("INLAY_STRICT");
  return value != nullptr && std::string_view(value) == "1";
}

void check_with_agent(const std::string &socket, const Program &program) {
  auto answer = ask_agent(socket, program.chain.back());
  if (!answer) fail(kExitInlayFailed, answer.error());
}

policy::Policy checked_policy(const Options &options, const std::string &config) {
  auto policy = policy::load(config, options.owners);
  if (!policy) fail(kExitInlayFailed, policy.error().text());
  policy->strict = options.strict || inherited_strict();
  if (policy->identity.agent.empty()) {
    auto identity = check_identity(*policy, std::time(nullptr));
    if (!identity) fail(kExitInlayFailed, identity.error());
  }
  return std::move(*policy);
}

// Where the agent has the policy, its answer to the process itself counts: who asks here is
// `inlay`.
std::optional<policy::Policy> policy_of(const Options &options, const std::string &config) {
  if (identity::is_agent_address(config)) return std::nullopt;
  return checked_policy(options, config);
}

std::string agent_of(const std::string &config, const std::optional<policy::Policy> &policy) {
  if (policy) return policy->identity.agent;
  auto socket = identity::parse_agent_address(config);
  if (!socket) fail(kExitInlayFailed, config + ": " + socket.error());
  return *std::move(socket);
}

// A name that cannot be looked up now still protects what the program looks up itself, so it does
// not keep the program from starting.
void resolve_into(policy::Policy &policy, const std::string &config) {
  Resolved resolved = resolve_names(policy, kResolveSeconds);
  for (const std::string &name : resolved.unknown) {
    complain(
        fmt::format("{}: no address for {} now; its rule holds where the program looks the "
                    "name up itself",
                    config, name));
  }
  policy.resolved = std::move(resolved.pairs);
}

[[noreturn]] void become(const std::string &path, std::vector<std::string> command) {
  std::vector<char *> arguments;
  for (std::string &word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  // execvp for the shell it gives a script without `#!` to; the path already names a file.
  ::execvp(path.c_str(), arguments.data());
  int error = errno;
  fail(error == ENOENT ? kExitNotFound : kExitCannotExecute, path + ": " + std::strerror(error));
}

void run(const Options &options, const std::vector<std::string> &command) {
  if (command.empty()) {
    fail(kExitInlayFailed, "run: no command given; inlay run [OPTIONS] -- COMMAND [ARG…]");
  }
  auto config = find_config(options.config);
  if (!config) fail(kExitInlayFailed, config.error());
  std::optional<policy::Policy> policy = policy_of(options, *config);
  const std::string agent = agent_of(*config, policy);
  auto library = find_library();
  if (!library) fail(kExitInlayFailed, library.error());

  auto program = examine(command[0], Imports::skip);
  if (!program) fail(program.error().exit_code, program.error().message);
  if (!program->obstacle.empty() && !options.allow_unprotected) {
    fail(kExitCannotExecute,
         program->chain.back() + " " + program->obstacle +
             "; not started (--allow-unprotected starts it without protection)");
  }
  if (program->obstacle.empty() && !agent.empty()) check_with_agent(agent, *program);
  if (policy) resolve_into(*policy, *config);
  set_environment(options, *config, *library);
  // A program that libinlay.so does not get into would keep the descriptor open for nothing.
  if (program->obstacle.empty() && policy) {
    auto snapshot = make_snapshot(*policy);
    if (!snapshot) fail(kExitInlayFailed, snapshot.error());
    ::setenv("INLAY_SNAPSHOT", snapshot->c_str(), 1);
  }
  // Nothing but the exec comes after it: this program's own sockets would be refused as well.
  if ((options.strict || inherited_strict()) && !is_contained()) {
    complain(kContainmentCost);
    auto contained = contain();
    if (!contained) fail(kExitInlayFailed, contained.error());
  }
  std::vector<std::string> words = command;
  if (!options.argv0.empty()) words[0] = options.argv0;
  become(program->path, std::move(words));
}

}  // namespace

void add_run_command(const Command &root) {
  const Command command = root.subcommand("run", kHelp);
  auto options = std::make_shared<Options>();
  command.option("--config", options->config);
  command.flag("--strict", options->strict);
  command.flag("--allow-unprotected", options->allow_unprotected);
  command.option("--argv0", options->argv0);
  command.option("--config-owner", options->owners);
  command.callback([options] { run(*options, command_words()); });
}

}  // namespace inlay::tools
