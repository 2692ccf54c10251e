// What the configuration said, for the whole process.
#pragma once

#include <string_view>

#include "policy/policy.h"

namespace inlay::shim::boot {

// The policy in force; null when none could be read: every INET connect and accept fails closed
// then, with the reason policy_unreadable. Any thread, hooks included. What it ever returned stays
// valid as long as the process lives.
const policy::Policy *policy() noexcept;
// Why policy() is null or old: one line "FILE:LINE:COLUMN: MESSAGE"; "" when the file is in force.
std::string_view policy_error() noexcept;

// Reads the policy: from the launcher's sealed memfd when `snapshot` ("FD:INODE") names one, else
// from `file`. Once, at boot.
void load_policy(const char *file, const char *snapshot, bool strict) noexcept;

}  // namespace inlay::shim::boot
