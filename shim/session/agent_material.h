// What an agent's snapshot is to a handshake.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "identity/agent_snapshot.h"
#include "identity/file_source.h"

namespace inlay::shim {

// The SVID with a key that signs through the agent, and the bundles. The error is one line: what is
// wrong with the SVID, or the agent's reason why there is none.
tl::expected<identity::Material, std::string> material_of(const identity::AgentSnapshot &snapshot,
                                                          bool accept_stale_crls);

}  // namespace inlay::shim
