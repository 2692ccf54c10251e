// What the configuration said, for the whole process.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "policy/policy.h"

namespace inlay::shim::boot {

// The policy in force; null when none could be read: every INET connect and accept fails closed
// then, with the reason policy_unreadable. Any thread, hooks included. What it ever returned stays
// valid as long as the process lives.
const policy::Policy *policy() noexcept;
// Grows with every change of policy(); 0 while it is null. Any thread.
std::uint64_t policy_generation() noexcept;

// Follows the file: one stat when nothing changed. True when policy() is another one now. A file
// that cannot be loaded is logged once and changes nothing. One caller at a time, outside hooks.
bool refresh_policy() noexcept;
// Why the newest file is not in force: one line "FILE:LINE:COLUMN: MESSAGE"; "" when it is. Same
// caller as refresh_policy().
std::string_view policy_error() noexcept;

// Whether INLAY_CONFIG names an agent, whose snapshots hold the policy, and the path of its socket.
// Any thread.
bool policy_is_the_agents() noexcept;
const std::string &policy_agent() noexcept;
// A new one of the agent's. Same caller as refresh_policy().
void adopt_policy(policy::Policy policy);  // may throw std::bad_alloc

struct PolicySource {
  const char *file;      // INLAY_CONFIG: a file, or the address of an agent
  const char *snapshot;  // INLAY_SNAPSHOT, "FD:INODE" of the launcher's sealed memfd, or null
  const char *owners;    // INLAY_CONFIG_OWNER, further uids that may own the file, "1,2", or null
  bool strict;
};
// Once, at boot.
void load_policy(const PolicySource &source) noexcept;

}  // namespace inlay::shim::boot
