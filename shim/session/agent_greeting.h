// What a process asks its agent at boot, before it has a second thread: who am I, and what may I
// do?
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "identity/agent_protocol.h"
#include "identity/agent_snapshot.h"

namespace inlay::shim {

struct AgentGreeting {
  identity::AgentSnapshot snapshot;
  identity::SnapshotAnswer answer;
};

// Waits at most five seconds. The error is one line: what is wrong, and where something can be done
// about it, what. May throw std::bad_alloc.
tl::expected<AgentGreeting, std::string> greet_agent(const std::string &socket);

}  // namespace inlay::shim
