#include "identity/agent/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "identity/agent/agent.h"
#include "identity/agent/config.h"
#include "identity/agent/enroll.h"
#include "identity/agent_address.h"
#include "identity/agent_client.h"
#include "identity/certificate.h"

namespace inlay::identity::agent {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

constexpr std::string_view kEnrollHelp =
    R"(Usage: inlay enroll URL [--token-file FILE] [--state DIR] [--config FILE] [--no-start]
       inlay leave [--state DIR] [--config FILE]

enroll  makes this machine a member of the trust domain of an inlay-ca, once and for all: its agent
        renews its SVID by itself, over reboots and outages. The token of inlay ca token is read
        from standard input; it is good once, for some minutes, and names the authority to believe
leave   takes that back: state, configuration and service

  URL                https://HOST[:PORT] of the authority; the port is 8443 when none is given.
                     URL#TOKEN is taken, too, but shows the token to every user of this machine
  --token-file FILE  where the token is, instead of standard input
  --state DIR        where it is kept what this machine is; /var/lib/inlay/node, or
                     $XDG_STATE_HOME/inlay/node of a plain user
  --config FILE      the agent's configuration, which is made when it is not there;
                     /etc/inlay/agent.toml, or $XDG_CONFIG_HOME/inlay/agent.toml
  --no-start         do not start the agent

Example:
  inlay enroll https://ca.example.org:8443 <token

Exit codes: 0 good, 1 failed, 2 usage
)";

constexpr std::string_view kHelp =
    R"(Usage: inlay agent --config FILE
       inlay agent check --config FILE
       inlay agent entries test --pid PID [--socket ADDRESS] [--json]

The node agent: it knows the processes of this machine by what the kernel says of them, gives each
the SPIFFE ID of the entry it matches, holds and renews their SVIDs, and signs their handshakes, so
that no program has a private key. Programs that speak the SPIFFE Workload API find it at the same
socket.

  --config FILE         what it is to do; see inlay-agent(8)
  --config-owner UID    a further user who may own the configuration; may be repeated

Commands:
  check                 say whether a configuration is good: exit 0, or 1 and what is wrong
  entries test          ask the running agent which entry a process matches, and why the others
                        do not; for root and the agent's own user

  --pid PID             the process
  --socket ADDRESS      the agent's, unix:///PATH, when it is not at its standard place
  --json                for programs

SIGHUP makes a running agent read its configuration again; a bad one changes nothing.

Example: every process of the user redis is spiffe://example.org/redis
  trust_domain = "example.org"
  [source]
  authority = "authority"       # of inlay ca init
  [[entry]]
  id = "spiffe://example.org/redis"
  user = "redis"
  policy = "redis.toml"
)";

struct Usage {
  std::string message;
};

// The options of a command line, each with its values; a flag's is "".
class Options {
 public:
  Options(const std::vector<std::string> &words, std::size_t from,
          std::initializer_list<std::string_view> with_value,
          std::initializer_list<std::string_view> flags) {
    for (std::size_t i = from; i < words.size(); ++i) {
      std::string name = words[i];
      std::optional<std::string> value;
      if (std::size_t equals = name.find('='); name.starts_with("--") && equals != name.npos) {
        value = name.substr(equals + 1);
        name.resize(equals);
      }
      if (std::find(flags.begin(), flags.end(), name) != flags.end() && !value) {
        values_[name].push_back("");
      } else if (std::find(with_value.begin(), with_value.end(), name) == with_value.end()) {
        throw Usage{fmt::format("unknown word '{}'", name)};
      } else if (value) {
        values_[name].push_back(*value);
      } else if (++i < words.size()) {
        values_[name].push_back(words[i]);
      } else {
        throw Usage{fmt::format("{} needs a value", name)};
      }
    }
  }
  bool has(const std::string &name) const { return values_.contains(name); }
  std::string one(const std::string &name) const {
    auto found = values_.find(name);
    if (found == values_.end()) throw Usage{fmt::format("{} is missing", name)};
    return found->second.back();
  }
  std::string one_or_none(const std::string &name) const { return has(name) ? one(name) : ""; }
  std::vector<uid_t> owners() const {
    std::vector<uid_t> out;
    if (auto found = values_.find("--config-owner"); found != values_.end()) {
      for (const std::string &text : found->second) out.push_back(number<uid_t>(text));
    }
    return out;
  }
  template <typename T>
  static T number(const std::string &text) {
    T value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) {
      throw Usage{fmt::format("'{}' is no number", text)};
    }
    return value;
  }

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

int complain(const std::string &message) {
  fmt::print(stderr, "inlay agent: {}\n", message);
  return kExitFailed;
}

int check(const Options &options) {
  auto config = load_config(options.one("--config"), options.owners());
  if (!config) return complain(config.error().text());
  fmt::print("good: {} entries of {}\n", config->entries.size(), config->trust_domain);
  return 0;
}

// What the agent says in JSON, for people.
void print_test(const nlohmann::json &answer) {
  auto text = [](const nlohmann::json &value) {
    return printable(value.is_string() ? value.get<std::string>() : value.dump());
  };
  fmt::print("process {}: user {}, group {}, executable {}\n", text(answer["pid"]),
             text(answer["user"]), text(answer["group"]), text(answer["executable"]));
  if (answer["unit"] != "") fmt::print("  unit {}\n", text(answer["unit"]));
  if (answer["cgroup"] != "") fmt::print("  cgroup {}\n", text(answer["cgroup"]));
  for (const auto &entry : answer["entries"]) {
    fmt::print("entry {} {}: {}\n", text(entry["entry"]), text(entry["spiffe_id"]),
               entry["matches"] == true ? "matches" : "does not match");
    for (const auto &selector : entry["selectors"]) {
      fmt::print("  {} {} {}", selector["matches"] == true ? "yes" : "no ",
                 text(selector["selector"]), text(selector["wanted"]));
      if (selector["matches"] != true) fmt::print("; it has {}", text(selector["found"]));
      fmt::print("\n");
    }
  }
  if (answer.contains("spiffe_id")) {
    fmt::print("it is {}\n", text(answer["spiffe_id"]));
  } else {
    fmt::print("it gets nothing: {}\n", text(answer["why"]));
  }
}

int test_entries(const Options &options) {
  const auto pid = Options::number<std::uint32_t>(options.one("--pid"));
  std::vector<std::string> sockets = standard_agent_sockets();
  if (options.has("--socket")) {
    auto path = parse_agent_address(options.one("--socket"));
    if (!path) throw Usage{"--socket: " + std::string(path.error())};
    sockets = {*path};
  }
  auto client = AgentClient::connect(sockets);
  if (!client) return complain(client.error().message);
  auto answer = client->ask(AgentFrame::test, {reinterpret_cast<const char *>(&pid), sizeof pid});
  if (!answer) return complain(answer.error().message);
  auto json = nlohmann::json::parse(answer->bytes, nullptr, false);
  if (!json.is_object()) return complain("the agent's answer is not understood");
  if (options.has("--json")) {
    fmt::print("{}\n", answer->bytes);
  } else {
    print_test(json);
  }
  return json.contains("spiffe_id") ? 0 : kExitFailed;
}

int dispatch(const std::vector<std::string> &words) {
  if (words.empty()) throw Usage{"--config FILE starts it, as --config /etc/inlay/agent.toml"};
  const bool joins = words[0] == "enroll" || words[0] == "leave";
  for (const std::string &word : words) {
    if (word == "--help" || word == "-h") {
      fmt::print("{}", joins ? kEnrollHelp : kHelp);
      return 0;
    }
  }
  if (words[0] == "--version") {
    fmt::print("inlay-agent " INLAY_VERSION "\n");
    return 0;
  }
  if (words[0] == "check") return check(Options(words, 1, {"--config", "--config-owner"}, {}));
  if (words[0] == "entries") {
    if (words.size() < 2 || words[1] != "test") throw Usage{"entries: the only command is test"};
    return test_entries(Options(words, 2, {"--pid", "--socket"}, {"--json"}));
  }
  if (words[0] == "enroll") {
    // The URL is the one word that is no option.
    std::vector<std::string> rest = words;
    if (rest.size() < 2 || rest[1].starts_with("-"))
      throw Usage{"the URL of the authority comes first"};
    rest.erase(rest.begin() + 1);
    const Options options(rest, 1, {"--token-file", "--state", "--config"}, {"--no-start"});
    return enroll({.url = words[1],
                   .token_file = options.one_or_none("--token-file"),
                   .state = options.one_or_none("--state"),
                   .config = options.one_or_none("--config"),
                   .start = !options.has("--no-start")});
  }
  if (words[0] == "leave") {
    const Options options(words, 1, {"--state", "--config"}, {});
    return leave(
        {.state = options.one_or_none("--state"), .config = options.one_or_none("--config")});
  }
  const Options options(words, 0, {"--config", "--config-owner"}, {});
  return run_agent(options.one("--config"), options.owners());
}

}  // namespace

int run_command(std::vector<std::string> words) {
  const bool joins = !words.empty() && (words[0] == "enroll" || words[0] == "leave");
  const std::string called = joins ? "inlay " + words[0] : "inlay agent";
  try {
    return dispatch(words);
  } catch (const Usage &usage) {
    fmt::print(stderr, "{0}: {1}; see {0} --help\n", called, usage.message);
    return kExitUsage;
  } catch (const std::exception &error) {
    return complain(error.what());
  }
}

}  // namespace inlay::identity::agent
