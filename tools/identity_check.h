// Whether the configuration and the identity it names can be used, now: what `inlay run` insists
// on and `inlay doctor` reports.
#pragma once

#include <sys/types.h>

#include <ctime>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/file_source.h"
#include "policy/policy.h"

namespace inlay::tools {

struct CheckedIdentity {
  std::string id;          // SPIFFE ID
  std::time_t not_before;  // seconds since the epoch
  std::time_t not_after;
};

// Loads the SVID, key and bundles the policy names and checks the SVID as a peer would: against the
// clock and against its own trust domain's bundle. Nothing when the policy names no identity and
// needs none. The error is one line: what, where, what to do.
tl::expected<std::optional<CheckedIdentity>, std::string> check_identity(
    const policy::Policy &policy, std::time_t now);

// "2026-01-02T03:04:05Z"
std::string utc_time(std::time_t time);

}  // namespace inlay::tools
