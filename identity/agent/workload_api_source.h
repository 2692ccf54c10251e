// SVIDs from a SPIFFE Workload API: that of a SPIRE agent on this machine, or of another agent of
// ours. It chooses when there are new ones, and says so on streams that stay open.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/source.h"

namespace inlay::identity::agent {

struct WorkloadApiSettings {
  std::string socket;        // absolute path
  std::string trust_domain;  // SVIDs of others are refused
  // Who may be at the other end, beside root and this user: the user that runs the SPIRE agent.
  std::vector<uid_t> owners{};
  // The first pause before a stream is opened again; it doubles up to thirty times that.
  std::chrono::milliseconds pause = std::chrono::seconds(1);
};

// Never fails for what is at the socket: it may come later. Starts three threads.
//
// What is not a good message as a whole is refused as a whole, and the last good one stays:
// obtain() and trust() then fail and say what was wrong. So they do while a stream is down, and for
// good when the other end says INVALID_ARGUMENT or UNIMPLEMENTED, which no repetition helps.
std::unique_ptr<Source> open_workload_api(WorkloadApiSettings settings);

// The path in the environment's SPIFFE_ENDPOINT_SOCKET (SPIFFE_Workload_Endpoint.md §4). The error
// is one line. Of a program with more rights than who started it (AT_SECURE) the environment is not
// asked: its user would choose who the program is.
tl::expected<std::string, std::string> endpoint_of_environment();

}  // namespace inlay::identity::agent
