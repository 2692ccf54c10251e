// Live policy: the file is looked at once a second while sessions are open, and open sessions are
// judged again when it changed, or when the bundles and CRLs that their peers were verified by did.
// The helper thread only.
#pragma once

#include "policy/policy.h"

namespace inlay::shim {

struct Slot;

// What `decision`, of an InboundQuery, means to a peer that proved to be `peer`: who may come in the
// clear may come encrypted as well.
policy::Reason judge_inbound(const policy::Policy &policy, const policy::Decision &decision,
                             const identity::SpiffeId &peer) noexcept;

// The agent has sent something: the next watch_policy() looks at once.
void note_news() noexcept;

// Looks at the policy's file if the last look is a second old, and cuts the sessions of this
// process that the policy in force no longer allows. True while there are sessions to watch over.
bool watch_policy() noexcept;

}  // namespace inlay::shim
