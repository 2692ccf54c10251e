// Live policy: the file is looked at once a second while sessions are open, and open sessions are
// judged again when it changed, or when the bundles and CRLs that their peers were verified by did.
// The helper thread only.
#pragma once

namespace inlay::shim {

struct Slot;

// The agent has sent something: the next watch_policy() looks at once.
void note_news() noexcept;

// Looks at the policy's file if the last look is a second old, and cuts the sessions of this
// process that the policy in force no longer allows. True while there are sessions to watch over.
bool watch_policy() noexcept;

}  // namespace inlay::shim
