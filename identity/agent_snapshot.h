// What the agent hands a process, in one sealed memfd: its policy, its SVID without the key, the
// trust bundles and CRLs. All of it is public. Made by the agent, read by libinlay.so and `inlay`.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::identity {

struct AgentSnapshot {
  // policy::serialize()'s block; this folder knows nothing of what is in it.
  std::string policy;
  // DER, leaf first; empty when there is no valid SVID now: `why_no_svid` says what is wrong.
  std::vector<std::string> svid;
  std::string why_no_svid;
  // Trust domain -> authorities as DER. One without any rejects everything of its trust domain.
  std::map<std::string, std::vector<std::string>, std::less<>> bundles;
  std::vector<std::string> crls;  // DER, of any trust domain

  bool operator==(const AgentSnapshot &) const = default;
};

inline constexpr std::size_t kMaxAgentSnapshot = 16u << 20;  // bytes

std::string serialize(const AgentSnapshot &snapshot);
// Never trusts a length in the block; a torn or truncated one is an error, never half a snapshot.
// The error is one line.
tl::expected<AgentSnapshot, std::string> parse_agent_snapshot(std::span<const char> block);

}  // namespace inlay::identity
