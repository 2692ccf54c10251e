// Names in rules, looked up when a program is started.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "policy/policy.h"

namespace inlay::tools {

struct Resolved {
  std::vector<std::pair<std::string, policy::Address>> pairs;
  std::vector<std::string> unknown;  // names without an address, or without an answer in time
};

// Every name in the outbound rules, all at once, by getaddrinfo; `seconds` bounds the whole.
Resolved resolve_names(const policy::Policy &policy, int seconds);

}  // namespace inlay::tools
