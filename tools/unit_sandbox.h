// What the sandbox of a unit (systemd.exec(5)) means for `inlay run` and libinlay.so in it: which
// settings keep them from working, which need a word in the drop-in, which do not matter.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tools/unit_file.h"

namespace inlay::tools {

// The groups of system calls that SystemCallFilter= knows, with what they are short for.
using SystemCallGroups = std::map<std::string, std::vector<std::string>>;
// What `systemd-analyze syscall-filter` prints.
SystemCallGroups parse_system_call_groups(std::string_view text);

// What a service must reach, by absolute paths.
struct SandboxNeeds {
  std::string command;  // inlay
  std::string library;  // libinlay.so
  std::string config;   // "" = the agent's
  std::string agent;    // its socket; "" = none
  bool strict = false;  // `inlay run --strict`
};

struct SandboxJudgement {
  std::vector<std::string> refusals;   // a sentence each: why not
  std::vector<std::string> additions;  // lines for [Service]
};
SandboxJudgement judge_sandbox(const UnitSettings &unit, const SandboxNeeds &needs,
                               const SystemCallGroups &groups);

// Of the calls that inlay makes, those the unit's filter takes away.
std::vector<std::string> filtered_calls(const UnitSettings &unit, const SystemCallGroups &groups,
                                        bool strict = false);

}  // namespace inlay::tools
