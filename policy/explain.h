// What the shim would do with a connection, in words: decide() and judge_*_peer() with their answer
// written out. For `inlay policy explain` and `inlay doctor`.
#pragma once

#include <optional>
#include <string>

#include "policy/policy.h"

namespace inlay::policy {

struct Explanation {
  std::string connection;  // "inbound to 127.0.0.1:6379"
  Decision decision;
  std::string rule;  // `"redis" (inbound rule 1)`, "[defaults] outbound"
  std::string peer;  // "allowed", "refused", "not asked", or which may be, when none is given
  // The last word: of the judge, where there is a peer to judge. none: it depends on the peer.
  Reason reason = Reason::none;
  bool allowed = false;  // or would be, with the right peer

  // Lines "decision: strict", "rule: ...", "peer: ...", "reason: NAME - SENTENCE".
  std::string text() const;
};

Explanation explain(const Policy &policy, const InboundQuery &query,
                    const std::optional<identity::SpiffeId> &peer);
Explanation explain(const Policy &policy, const OutboundQuery &query,
                    const std::optional<identity::SpiffeId> &peer);

}  // namespace inlay::policy
