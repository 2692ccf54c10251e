// inlay policy: is a configuration good, and what would it do with a connection. Reads and decides
// with the code libinlay.so uses.
#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "policy/explain.h"
#include "policy/host_name.h"
#include "policy/load.h"
#include "tools/commands.h"
#include "tools/exit_code.h"
#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kHelp =
    R"(Usage: inlay policy check FILE
       inlay policy explain FILE --inbound PORT [--local ADDR] [--peer ID]
       inlay policy explain FILE --outbound ADDR:PORT [--name HOST] [--peer ID] [CALLER]

check    says whether a configuration is good, and if not, where and why
explain  says what inlay does with a connection: the decision, the rule, the reason

Options:
  --inbound PORT        a connection accepted on this port
  --local ADDR          the local address it was made to (127.0.0.1)
  --outbound ADDR:PORT  a connection to this address; IPv6 as [::1]:6379
  --name HOST           a name the program resolved to this address; repeatable
  --peer ID             the SPIFFE ID the peer proves; without it, which ones may
  --module FILE         the object that calls connect()
  --executable FILE     the program
  --frame OBJ!FUNC      a frame of the call stack, innermost first; repeatable. Without any the
                        call stack is taken as unknown: deny rules match, other rules do not
  --strict              as under `inlay run --strict`
  --config-owner UID    a further user who may own the configuration and its folders; repeatable
  --json                one JSON object instead of lines

Example:
  inlay policy explain redis.toml --inbound 6379 --peer spiffe://example.org/web

Exit codes: 0 good or allowed, 1 bad or refused, 2 usage
)";

struct Options {
  std::string file;
  std::vector<uid_t> owners;
  std::string inbound, local = "127.0.0.1", outbound, peer, module, executable;
  std::vector<std::string> names, frames;
  bool strict = false;
  bool json = false;
};

[[noreturn]] void usage(const std::string &message) {
  complain("policy: " + message + "; see inlay policy --help");
  throw Exit{kExitUsage};
}

std::uint16_t parse_port(const std::string &option, std::string_view text) {
  std::uint16_t port = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0) {
    usage(option + ": '" + std::string(text) + "' is no port from 1 to 65535");
  }
  return port;
}

policy::Address parse_address(const std::string &option, std::string_view text) {
  auto address = policy::Address::parse(text);
  if (!address) {
    usage(option + ": '" + std::string(text) +
          "' is no IP address (what it was resolved from goes into --name)");
  }
  return *address;
}

// "10.0.0.1:80" or "[::1]:80".
policy::Endpoint parse_endpoint(std::string_view text) {
  std::size_t colon = text.rfind(':');
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    colon = std::string_view::npos;  // which of the colons begins the port is anyone's guess
  }
  if (colon == std::string_view::npos) {
    usage("--outbound: write '" + std::string(text) + "' as ADDR:PORT, IPv6 as [ADDR]:PORT");
  }
  return {parse_address("--outbound", host), parse_port("--outbound", text.substr(colon + 1))};
}

std::optional<identity::SpiffeId> parse_peer(const std::string &text) {
  if (text.empty()) return std::nullopt;
  auto id = identity::SpiffeId::parse(text);
  if (!id) {
    usage("--peer: '" + text + "' is no SPIFFE ID: " + std::string(sentence(id.error())));
  }
  return *id;
}

void print(const std::string &text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// An escape sequence in a rule's name must not reach the terminal; the line ends stay.
void print_lines(const std::string &text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    std::size_t end = rest.find('\n');
    print(printable(rest.substr(0, end)) + "\n");
    rest = end == std::string_view::npos ? "" : rest.substr(end + 1);
  }
}

void print_json(const nlohmann::json &json) {
  print(json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n");
}

void check(const Options &options) {
  auto policy = policy::load(options.file, options.owners);
  if (options.json) {
    nlohmann::json json = {{"file", options.file}, {"good", policy.has_value()}};
    if (!policy) {
      json["line"] = policy.error().line;
      json["column"] = policy.error().column;
      json["message"] = policy.error().message;
    }
    print_json(json);
  } else if (policy) {
    print_lines(options.file + ": good: " + std::to_string(policy->inbound.size()) +
                " inbound and " + std::to_string(policy->outbound.size()) + " outbound rules\n");
  }
  if (policy) return;
  if (!options.json) complain(policy.error().text());
  throw Exit{kExitFailed};
}

policy::Explanation ask(const policy::Policy &policy, const Options &options) {
  auto peer = parse_peer(options.peer);
  if (!options.inbound.empty()) {
    policy::Endpoint local = {parse_address("--local", options.local),
                              parse_port("--inbound", options.inbound)};
    return explain(policy, policy::InboundQuery{.local = local}, peer);
  }
  for (const std::string &frame : options.frames) {
    if (frame.find('!') == std::string::npos) usage("--frame: write '" + frame + "' as OBJ!FUNC");
  }
  for (const std::string &name : options.names) {
    if (!policy::normal_host_name(name)) usage("--name: '" + name + "' is no host name");
  }
  return explain(policy,
                 policy::OutboundQuery{.remote = parse_endpoint(options.outbound),
                                       .names = options.names,
                                       .module = options.module,
                                       .executable = options.executable,
                                       .frames = options.frames,
                                       .frames_known = !options.frames.empty()},
                 peer);
}

nlohmann::json as_json(const policy::Explanation &explanation) {
  bool open = explanation.reason == policy::Reason::none;  // the peer decides
  nlohmann::json json = {{"connection", explanation.connection},
                         {"decision", name(explanation.decision.mode)},
                         {"rule", explanation.rule},
                         {"rule_number", nullptr},
                         {"peer", explanation.peer},
                         {"reason", nullptr},
                         {"sentence", nullptr},
                         {"allowed", explanation.allowed}};
  if (explanation.decision.rule != policy::kNoRule) {
    json["rule_number"] = explanation.decision.rule + 1;
  }
  if (!open) {
    json["reason"] = name(explanation.reason);
    json["sentence"] = sentence(explanation.reason);
  }
  return json;
}

void explain_command(const Options &options) {
  if (options.inbound.empty() == options.outbound.empty()) {
    usage("explain: give one of --inbound PORT and --outbound ADDR:PORT");
  }
  auto policy = policy::load(options.file, options.owners);
  policy::Explanation explanation;
  if (policy) {
    policy->strict = options.strict;
    explanation = ask(*policy, options);
  } else {
    // What libinlay.so does then: nothing goes in or out.
    complain(policy.error().text());
    explanation.connection = options.inbound.empty() ? "outbound to " + options.outbound
                                                     : "inbound to port " + options.inbound;
    explanation.rule = "none: the configuration is bad";
    explanation.peer = "not asked";
    explanation.reason = policy::Reason::policy_unreadable;
  }
  if (options.json) {
    print_json(as_json(explanation));
  } else {
    print_lines(explanation.text());
  }
  if (!explanation.allowed) throw Exit{kExitFailed};
}

}  // namespace

void add_policy_command(const Command &root) {
  const Command command = root.subcommand("policy", kHelp);
  auto options = std::make_shared<Options>();
  command.require_subcommand();

  const Command checks = command.subcommand("check", kHelp);
  const Command explains = command.subcommand("explain", kHelp);
  for (const Command &each : {checks, explains}) {
    each.required_option("FILE", options->file);
    each.option("--config-owner", options->owners);
    each.flag("--json", options->json);
  }
  explains.option("--inbound", options->inbound);
  explains.option("--local", options->local);
  explains.option("--outbound", options->outbound);
  explains.option("--name", options->names);
  explains.option("--peer", options->peer);
  explains.option("--module", options->module);
  explains.option("--executable", options->executable);
  explains.option("--frame", options->frames);
  explains.flag("--strict", options->strict);
  checks.callback([options] { check(*options); });
  explains.callback([options] { explain_command(*options); });
}

}  // namespace inlay::tools
