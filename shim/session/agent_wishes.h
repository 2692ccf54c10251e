// What other threads want of the helper's link to the agent (agent_link.h).
#pragma once

#include <string_view>

namespace inlay::shim {

// --- any thread, hooks included
// -------------------------------------------------------------------

// The socket of the agent that this process's identity comes from; "" for none. No system call.
std::string_view agent_socket() noexcept;

// The process is about to lose the way to its agent, if it has one: connects now, for good, and
// waits until the agent has answered; five seconds at most. Not the helper, which must run.
void keep_agent_link() noexcept;

// The policy is to come from the agent and is not there. At most once a second makes the helper ask
// for it.
void want_agent_policy() noexcept;

// --- the helper
// -----------------------------------------------------------------------------------

struct AgentWishes {
  bool policy = false;  // once
  bool link = false;    // from then on
};
AgentWishes take_agent_wishes() noexcept;
// Whether something was asked for since take_agent_wishes().
bool has_agent_wishes() noexcept;
// The agent has answered, or cannot be asked: who waits for that goes on.
void agent_link_settled() noexcept;
// In a forked child.
void forget_agent_wishes() noexcept;

}  // namespace inlay::shim
