#include "policy/explain.h"

#include <fmt/format.h>

namespace inlay::policy {
namespace {

std::string joined(const std::vector<IdPattern> &patterns) {
  std::string out;
  for (const IdPattern &pattern : patterns) {
    if (!out.empty()) out += ", ";
    out += pattern.text();
  }
  return out;
}

// A strict rule with an empty list: no peer will do.
bool nobody(const Policy &policy, bool inbound, std::uint32_t rule) {
  if (rule == kNoRule) return false;
  return inbound ? policy.inbound[rule].allow.empty() : policy.outbound[rule].expect.empty();
}

std::string wanted(const std::vector<IdPattern> &allow, const std::vector<IdPattern> &deny) {
  if (allow.empty()) return "none is allowed";
  std::string out = "must be one of " + joined(allow);
  if (!deny.empty()) out += " and none of " + joined(deny);
  return out;
}

std::string wanted(const Policy &policy, bool inbound, std::uint32_t rule) {
  if (rule == kNoRule) return fmt::format("must be of the trust domain {}", policy.trust_domain);
  if (inbound) return wanted(policy.inbound[rule].allow, policy.inbound[rule].deny);
  return wanted(policy.outbound[rule].expect, {});
}

Explanation explained(const Policy &policy, bool inbound, const Endpoint &endpoint,
                      const Decision &decision, const std::optional<identity::SpiffeId> &peer) {
  const char *direction = inbound ? "inbound" : "outbound";
  Explanation out;
  out.connection = fmt::format("{} to {}", direction, endpoint.text());
  out.decision = decision;
  out.reason = decision.reason;
  out.rule = decision.rule == kNoRule
                 ? fmt::format("[defaults] {}", direction)
                 : fmt::format("\"{}\" ({} rule {})", rule_name(policy, inbound, decision.rule),
                               direction, decision.rule + 1);
  out.allowed = decision.mode != Mode::deny;
  out.peer = "not asked";
  if (decision.mode != Mode::strict) return out;
  if (!peer) {
    out.peer = wanted(policy, inbound, decision.rule);
    if (nobody(policy, inbound, decision.rule)) {
      out.allowed = false;
      out.reason = Reason::peer_not_allowed;
    }
    return out;
  }
  out.reason = inbound ? judge_inbound_peer(policy, decision.rule, *peer)
                       : judge_outbound_peer(policy, decision.rule, *peer);
  out.allowed = out.reason == Reason::allowed;
  out.peer = out.allowed ? "allowed" : "refused";
  return out;
}

}  // namespace

std::string Explanation::text() const {
  std::string why = reason == Reason::none ? "the peer's identity decides"
                                           : fmt::format("{} - {}", name(reason), sentence(reason));
  return fmt::format("connection: {}\ndecision: {}\nrule: {}\npeer: {}\nreason: {}\n", connection,
                     name(decision.mode), rule, peer, why);
}

Explanation explain(const Policy &policy, const InboundQuery &query,
                    const std::optional<identity::SpiffeId> &peer) {
  return explained(policy, true, query.local, decide(policy, query), peer);
}

Explanation explain(const Policy &policy, const OutboundQuery &query,
                    const std::optional<identity::SpiffeId> &peer) {
  return explained(policy, false, query.remote, decide(policy, query), peer);
}

}  // namespace inlay::policy
