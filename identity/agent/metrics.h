// What the agent counts, and its text in Prometheus' exposition format 0.0.4. The names are a
// contract: README.md lists them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <ctime>
#include <string>

#include "identity/agent/identities.h"
#include "identity/agent_protocol.h"

namespace inlay::identity::agent {

#define INLAY_AGENT_REFUSAL_COUNT(id, name, sentence) +1
inline constexpr std::size_t kAgentRefusals = 0 INLAY_AGENT_REFUSALS(INLAY_AGENT_REFUSAL_COUNT);
#undef INLAY_AGENT_REFUSAL_COUNT

// Any thread counts.
struct Counters {
  std::atomic<std::uint64_t> signatures{0};
  std::array<std::atomic<std::uint64_t>, kAgentRefusals> refusals{};  // by AgentRefusal
  std::atomic<std::uint64_t> attached{0};                             // processes, now
  std::atomic<std::uint64_t> jwt_svids{0};                            // issued
  std::atomic<std::uint64_t> lost_log_lines{0};                       // of the audit log

  void refused(AgentRefusal refusal) { ++refusals[static_cast<std::size_t>(refusal)]; }
};

// `source` as in Identities::source_name().
std::string metrics_text(const View &view, const Counters &counters, const std::string &source);

}  // namespace inlay::identity::agent
