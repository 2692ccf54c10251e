// The helper's link to the agent: who this process is, and the signatures of its handshakes.
//
//   closed --agent_identity(), sessions open--> attaching --snapshot, unchanged--> attached
//      ^                                           |                                  |  news:
//      snapshot |                                        refused: asked again after a second   |
//      +----------- the agent is gone; tried again with a back-off -------------------+
//
// Handshakes that need something of it wait in their task and are notified when it is there; their
// own deadline ends the waiting. All of it on the helper thread, but for what says otherwise.
#pragma once

#include <cstdint>
#include <string>

#include "identity/agent_protocol.h"
#include "identity/agent_snapshot.h"
#include "shim/session/runtime.h"

namespace inlay::shim {

struct Task;

// Asks the agent at `socket` unless it is attached already.
OwnIdentity agent_identity(const std::string &socket);

// The task's handshake needs a signature: asks for it now, or when the agent is there again.
void ask_for_signature(Task &task);
// The task goes away.
void forget_signature(Task &task) noexcept;

// Why nothing comes from the agent at the moment.
std::string agent_trouble();

// The link's descriptor has something.
void attend_agent_link() noexcept;
// Marks the link's events in the helper's epoll set.
void *agent_link_tag() noexcept;
// Does what is due; how long until something else is, -1 for never. While `watching`, sessions are
// open: they follow the agent's news.
std::int64_t agent_link_due(std::int64_t now_ns, bool watching) noexcept;
// The helper's descriptors go; what is known stays.
void close_agent_link() noexcept;
// In a forked child. The helper does not run.
void forget_agent_link() noexcept;

// At boot, before there is a helper: what agent_greeting.h learned.
void seed_agent_link(const std::string &socket, const identity::AgentSnapshot &snapshot,
                     const identity::SnapshotAnswer &answer) noexcept;

}  // namespace inlay::shim
