// Entries that the authority grants to this machine: read as those of the configuration are, and
// put beside them.
#pragma once

#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/config.h"
#include "identity/agent/source.h"

namespace inlay::identity::agent {

// The error is one line, about this entry alone: a user that this machine does not have, a policy
// that is not good.
tl::expected<Entry, std::string> read_granted(const GrantedEntry &granted,
                                              const std::string &trust_domain);

// `config` with the granted entries behind its own. One that cannot be read, or that a process
// might match beside another that gives something else, is left out: `left_out` says which and why.
Config with_granted(Config config, std::span<const GrantedEntry> granted,
                    std::vector<std::string> &left_out);

}  // namespace inlay::identity::agent
