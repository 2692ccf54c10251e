// What an agent's snapshot is to a handshake.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "identity/agent_snapshot.h"
#include "identity/file_source.h"

namespace inlay::shim {

// The trust bundles, with their CRLs. The error is one line: what is wrong with one of them.
tl::expected<identity::BundleSet, std::string> bundles_of(const identity::AgentSnapshot &snapshot,
                                                          bool accept_stale_crls);

// The SVID, with a key that signs through the agent. The error is one line: what is wrong with it,
// or the agent's reason why there is none.
tl::expected<identity::X509Svid, std::string> svid_of(const identity::AgentSnapshot &snapshot);

}  // namespace inlay::shim
