// inlay ca token, agents and revoke.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "identity/ca/command_words.h"
#include "identity/certificate.h"
#include "identity/enrolment_token.h"

namespace inlay::identity::ca {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::time_t kTokenLifetime = 600, kLongestToken = 86400;  // seconds

std::string node_name(const State &state, const std::string &name) {
  const auto id =
      SpiffeId::parse(fmt::format("spiffe://{}/inlay/node/{}", state.config.trust_domain, name));
  if (!id || name.find('/') != name.npos) {
    throw Failure{
        fmt::format("\"{}\" is no name of a machine: letters, digits, dots, dashes and "
                    "underscores",
                    printable(name))};
  }
  return name;
}

std::string shown(std::time_t time) { return time == 0 ? "-" : time_text(time); }

int list_agents(const Words &words) {
  State state = open_state(words);
  const auto nodes = value_of(state.store.nodes());
  if (words.json()) {
    Json list = Json::array();
    for (const Node &node : nodes) {
      list.push_back({{"node", node.name},
                      {"state", name(node.state)},
                      {"hostname", node.hostname},
                      {"address", node.address},
                      {"enrolled", time_text(node.enrolled_at)},
                      {"last_seen", time_text(node.last_seen_at)},
                      {"not_after", node.not_after == 0 ? "" : time_text(node.not_after)}});
    }
    fmt::print("{}\n", list.dump(2, ' ', false, Json::error_handler_t::replace));
    return 0;
  }
  if (nodes.empty()) {
    fmt::print("no machine has joined yet; give one a token: inlay ca token --node NAME\n");
    return 0;
  }
  Table table({"NODE", "STATE", "LAST SEEN", "ITS SVID ENDS", "HOST", "FROM"});
  bool waiting = false;
  for (const Node &node : nodes) {
    waiting = waiting || node.state == NodeState::waiting;
    table.add({node.name, std::string(name(node.state)), shown(node.last_seen_at),
               shown(node.not_after), printable(node.hostname), printable(node.address)});
  }
  table.print();
  if (waiting) fmt::print("\nlet one that waits back in: inlay ca agents approve NAME\n");
  return 0;
}

}  // namespace

int token_command(const std::vector<std::string> &words) {
  const Words options(words, 1, {"--node", "--ttl"}, {});
  const auto lifetime = options.has("--ttl")
                            ? parse_lifetime(options.one("--ttl"), 1, kLongestToken)
                            : kTokenLifetime;
  if (!lifetime) throw Failure{"--ttl: " + lifetime.error()};
  options.one("--node");
  State state = open_state(options);
  const std::string node = node_name(state, options.one("--node"));
  EnrolmentToken token;
  token.pin = state.signer().pin();
  if (!make_secret(token)) throw Failure{"OpenSSL has no random bytes"};
  value_of(state.store.add_token({token.secret_digest(), node, state.now, state.now + *lifetime}));
  state.audit({.event = "token",
               .node = node,
               .detail = fmt::format("good until {}", time_text(state.now + *lifetime))});
  const std::string url =
      state.config.advertise.empty() ? "https://THIS-HOST:8443" : state.config.advertise;
  if (options.json()) {
    fmt::print("{}\n", Json({{"token", token.text()},
                             {"node", node},
                             {"url", state.config.advertise},
                             {"expires", time_text(state.now + *lifetime)}})
                           .dump(2));
    return 0;
  }
  if (const std::string told = state.beginning(); !told.empty()) fmt::print(stderr, "{}\n", told);
  fmt::print("{}\n", token.text());
  std::fflush(stdout);
  fmt::print(stderr,
             "good once, until {}, for the machine {}; there run\n"
             "  inlay enroll {}\n"
             "and give it the token on standard input\n",
             time_text(state.now + *lifetime), node, url);
  return 0;
}

int agents_command(const std::vector<std::string> &words) {
  const std::string what = words.size() > 1 && !words[1].starts_with("--") ? words[1] : "list";
  const std::size_t from = words.size() > 1 && words[1] == what ? 2 : 1;
  if (what == "list") return list_agents(Words(words, from, {}, {}));
  if (what != "approve") throw Usage{"agents: the commands are list and approve"};
  const Words options(words, from, {}, {}, 1);
  const std::string node = options.place(0, "the name of the machine");
  State state = open_state(options);
  value_of(state.store.approve(node));
  state.audit({.event = "approved", .node = node});
  if (options.json()) {
    fmt::print("{}\n", Json({{"approved", node}}).dump());
  } else {
    fmt::print("{} is let back in when it asks next, within a minute\n", node);
  }
  return 0;
}

int revoke_command(const std::vector<std::string> &words) {
  const Words options(words, 1, {"--node", "--serial", "--reason"}, {});
  if (options.has("--node") == options.has("--serial")) {
    throw Usage{"revoke: say which, --node NAME or --serial NUMBER"};
  }
  State state = open_state(options);
  const std::string reason = options.one_or("--reason", "revoked by an administrator");
  if (options.has("--serial")) {
    std::string serial = options.one("--serial");
    std::erase(serial, ':');  // as openssl prints it
    std::transform(serial.begin(), serial.end(), serial.begin(),
                   [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
    const Issuance gone = value_of(state.store.revoke_svid(serial, reason, state.now));
    state.audit({.event = "revoked",
                 .node = gone.node,
                 .spiffe_id = gone.spiffe_id,
                 .serial = gone.serial,
                 .reason = reason});
    if (options.json()) {
      fmt::print("{}\n", Json({{"serial", gone.serial}, {"spiffe_id", gone.spiffe_id}}).dump());
    } else {
      fmt::print("revoked: the SVID {} of {}\n", gone.serial, gone.spiffe_id);
    }
    return 0;
  }
  const std::string node = options.one("--node");
  const std::size_t count = value_of(state.store.revoke_node(node, reason, state.now));
  state.audit({.event = "revoked",
               .node = node,
               .reason = reason,
               .detail = fmt::format("{} SVIDs", count)});
  if (options.json()) {
    fmt::print("{}\n", Json({{"node", node}, {"svids", count}}).dump());
  } else {
    fmt::print("revoked: {} and {} SVIDs; it is cut off when it asks next\n", node, count);
  }
  return 0;
}

}  // namespace inlay::identity::ca
