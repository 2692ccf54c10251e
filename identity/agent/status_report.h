// The answer to `inlay status`: JSON of who this machine's workloads are, when their SVIDs expire
// and renew, what is wrong and what to do. What it says is for the caller's eyes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "identity/agent/identities.h"

namespace inlay::identity::agent {

struct AttachedProcess {
  pid_t pid = 0;
  uid_t uid = 0;
  std::string executable;
  std::string spiffe_id;
  std::time_t since = 0;
  std::time_t svid_expires = 0;  // of the SVID in the snapshot it has; 0 = it has none
};

struct EntrySummary {
  std::string spiffe_id;
  std::string selectors;  // as text: "uid 1000, executable /usr/bin/redis-server"
  uid_t uid = 0;          // meaningful when one_uid
  bool one_uid = false;   // whether the entry is of one user's processes only
};

struct StatusInput {
  const View *view = nullptr;
  std::string trust_domain;
  std::string source;  // Identities::source_name()
  std::string socket;
  std::string configuration;          // its path
  std::string configuration_error;    // a reload that was not taken; "" = none
  std::vector<std::string> left_out;  // entries of the authority that are not in force, and why
  std::uint64_t lost_log_lines = 0;
  std::time_t started = 0;
  std::vector<AttachedProcess> attached;
  std::vector<EntrySummary> entries;
  // Who asks: sees everything, or only processes and entries of its own uid.
  uid_t caller = 0;
  bool sees_all = false;
};

// At most kMaxAgentAnswer bytes: of very many processes and identities only the first are listed.
std::string status_report(const StatusInput &input, std::time_t now);

}  // namespace inlay::identity::agent
