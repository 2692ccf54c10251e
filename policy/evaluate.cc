// decide() and the judges. Called from hooks: no allocation, no syscall, no throw.
#include <algorithm>

#include "policy/glob.h"
#include "policy/host_name.h"
#include "policy/policy.h"

namespace inlay::policy {
namespace {

constexpr Address kLoopback4{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1}};
constexpr Address kLoopback6{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};

bool covers(const std::vector<PortRange> &ports, std::uint16_t port) noexcept {
  return std::any_of(ports.begin(), ports.end(), [port](const PortRange &range) {
    return range.first <= port && port <= range.last;
  });
}

bool contains(const std::vector<Network> &networks, const Address &address) noexcept {
  return std::any_of(networks.begin(), networks.end(),
                     [&](const Network &network) { return network.contains(address); });
}

bool matches_any(const std::vector<IdPattern> &patterns, const identity::SpiffeId &id) noexcept {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const IdPattern &pattern) { return pattern.matches(id); });
}

bool object_matches(std::string_view pattern, std::string_view path) noexcept {
  if (pattern.find('/') == std::string_view::npos) path = path.substr(path.rfind('/') + 1);
  return glob_matches(pattern, path);
}

bool frame_matches(std::string_view pattern, std::string_view frame) noexcept {
  std::size_t pattern_split = pattern.rfind('!');
  std::size_t split = frame.rfind('!');
  if (pattern_split == std::string_view::npos || split == std::string_view::npos) return false;
  return glob_matches(pattern.substr(pattern_split + 1), frame.substr(split + 1)) &&
         object_matches(pattern.substr(0, pattern_split), frame.substr(0, split));
}

bool caller_matches(const OutboundRule &rule, const OutboundQuery &query) noexcept {
  const Caller &caller = rule.caller;
  const bool when_unknown = rule.mode == Mode::deny;
  if (!caller.module.empty()) {
    if (query.module.empty() ? !when_unknown : !object_matches(caller.module, query.module)) {
      return false;
    }
  }
  if (!caller.executable.empty()) {
    if (query.executable.empty() ? !when_unknown
                                 : !object_matches(caller.executable, query.executable)) {
      return false;
    }
  }
  if (!caller.frame.empty()) {
    if (!query.frames_known) return when_unknown;
    return std::any_of(query.frames.begin(), query.frames.end(), [&](const std::string &frame) {
      return frame_matches(caller.frame, frame);
    });
  }
  return true;
}

bool name_matches(const Policy &policy, const OutboundRule &rule, const OutboundQuery &query,
                  const Address &address) noexcept {
  for (const std::string &name : rule.names) {
    for (const std::string &learned : query.names) {
      if (same_host_name(name, learned)) return true;
    }
    for (const auto &[resolved, its_address] : policy.resolved) {
      if (its_address == address && same_host_name(name, resolved)) return true;
    }
  }
  return false;
}

enum class Match : std::uint8_t {
  no,
  named,  // the rule names this port or destination, but the name or the caller is another
  yes,
};

Match match(const Policy &policy, const OutboundRule &rule, const OutboundQuery &query,
            const Address &address) noexcept {
  if (!covers(rule.ports, query.remote.port)) return Match::no;
  bool anywhere = rule.networks.empty() && rule.names.empty();
  if (!anywhere && !contains(rule.networks, address) &&
      !name_matches(policy, rule, query, address)) {
    // Which addresses a name stands for is never known for sure: the program may have its own
    // resolver, spell the name otherwise, or have been answered differently (T57). So a rule with a
    // name speaks for its port.
    return rule.names.empty() ? Match::no : Match::named;
  }
  return caller_matches(rule, query) ? Match::yes : Match::named;
}

Decision by_default(const Policy &policy, Mode mode) noexcept {
  Decision out{.mode = mode, .bare_fin = policy.defaults.bare_fin};
  if (mode == Mode::plaintext && policy.strict) out.mode = Mode::deny;
  if (out.mode == Mode::plaintext) out.reason = Reason::plaintext_default;
  if (out.mode == Mode::deny) out.reason = Reason::denied_by_default;
  return out;
}

template <typename Rule>
Decision by_rule(const std::vector<Rule> &rules, std::size_t index) noexcept {
  const Rule &rule = rules[index];
  Decision out{
      .mode = rule.mode, .rule = static_cast<std::uint32_t>(index), .bare_fin = rule.bare_fin};
  if (rule.mode == Mode::plaintext) out.reason = Reason::plaintext_rule;
  if (rule.mode == Mode::deny) out.reason = Reason::denied_by_rule;
  return out;
}

Decision decide_at(const Policy &policy, const OutboundQuery &query,
                   const Address &address) noexcept {
  const auto &rules = policy.outbound;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (rules[i].mode == Mode::deny && match(policy, rules[i], query, address) == Match::yes) {
      return by_rule(rules, i);
    }
  }
  std::uint32_t naming = kNoRule;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    // A deny rule says what must not be and nothing about the rest, so it does not name.
    if (rules[i].mode == Mode::deny) continue;
    Match found = match(policy, rules[i], query, address);
    if (found == Match::yes) return by_rule(rules, i);
    if (found == Match::named && naming == kNoRule) naming = static_cast<std::uint32_t>(i);
  }
  if (naming != kNoRule) {
    return {.mode = Mode::deny, .reason = Reason::caller_not_matched, .rule = naming};
  }
  return by_default(policy, policy.defaults.outbound);
}

int strictness(Mode mode) noexcept { return mode == Mode::deny ? 2 : mode == Mode::strict ? 1 : 0; }

Reason judge_default(const Policy &policy, Mode mode, const identity::SpiffeId &peer) noexcept {
  if (mode != Mode::strict) return Reason::denied_by_default;  // decide() under another policy
  return peer.trust_domain() == policy.trust_domain ? Reason::allowed : Reason::peer_not_allowed;
}

}  // namespace

bool Policy::needs_names() const noexcept {
  return std::any_of(outbound.begin(), outbound.end(),
                     [](const OutboundRule &rule) { return !rule.names.empty(); });
}

bool Policy::needs_module() const noexcept {
  return std::any_of(outbound.begin(), outbound.end(),
                     [](const OutboundRule &rule) { return !rule.caller.module.empty(); });
}

bool Policy::needs_frames() const noexcept {
  return std::any_of(outbound.begin(), outbound.end(),
                     [](const OutboundRule &rule) { return !rule.caller.frame.empty(); });
}

Decision decide(const Policy &policy, const InboundQuery &query) noexcept {
  const auto &rules = policy.inbound;
  auto matches = [&](const InboundRule &rule) {
    return covers(rule.ports, query.local.port) &&
           (rule.addresses.empty() || contains(rule.addresses, query.local.address));
  };
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (rules[i].mode == Mode::deny && matches(rules[i])) return by_rule(rules, i);
  }
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (matches(rules[i])) return by_rule(rules, i);
  }
  return by_default(policy, policy.defaults.inbound);
}

Decision decide(const Policy &policy, const OutboundQuery &query) noexcept {
  const Address &to = query.remote.address;
  if (!to.is_unspecified()) return decide_at(policy, query, to);
  // Linux takes 0.0.0.0 as the socket's own address, 127.0.0.1 when it has none; :: as ::1, but as
  // 127.0.0.1 on a socket bound to an IPv4-mapped address (T56).
  if (to.is_v4()) {
    bool bound = query.bound.is_v4() && !query.bound.is_unspecified();
    return decide_at(policy, query, bound ? query.bound : kLoopback4);
  }
  Decision six = decide_at(policy, query, kLoopback6);
  Decision four = decide_at(policy, query, kLoopback4);
  return strictness(four.mode) > strictness(six.mode) ? four : six;
}

Reason judge_inbound_peer(const Policy &policy, std::uint32_t rule,
                          const identity::SpiffeId &peer) noexcept {
  if (rule == kNoRule) return judge_default(policy, policy.defaults.inbound, peer);
  if (rule >= policy.inbound.size()) return Reason::internal_error;
  const InboundRule &inbound = policy.inbound[rule];
  if (inbound.mode == Mode::deny) return Reason::denied_by_rule;
  if (matches_any(inbound.deny, peer)) return Reason::peer_denied;
  return matches_any(inbound.allow, peer) ? Reason::allowed : Reason::peer_not_allowed;
}

Reason judge_outbound_peer(const Policy &policy, std::uint32_t rule,
                           const identity::SpiffeId &peer) noexcept {
  if (rule == kNoRule) return judge_default(policy, policy.defaults.outbound, peer);
  if (rule >= policy.outbound.size()) return Reason::internal_error;
  const OutboundRule &outbound = policy.outbound[rule];
  if (outbound.mode == Mode::deny) return Reason::denied_by_rule;
  return matches_any(outbound.expect, peer) ? Reason::allowed : Reason::peer_not_allowed;
}

std::string_view rule_name(const Policy &policy, bool inbound, std::uint32_t rule) noexcept {
  // No `? :` over a std::string and "": that makes a string, and a view of it that dangles.
  if (inbound && rule < policy.inbound.size()) return policy.inbound[rule].name;
  if (!inbound && rule < policy.outbound.size()) return policy.outbound[rule].name;
  return {};
}

std::string_view name(Mode mode) noexcept {
  switch (mode) {
    case Mode::plaintext:
      return "plaintext";
    case Mode::strict:
      return "strict";
    case Mode::deny:
      return "deny";
  }
  return "unknown";
}

}  // namespace inlay::policy
