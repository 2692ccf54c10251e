// The sealed snapshots that processes are given, one for each entry: made anew when what is in them
// changes, else the same for all.
#pragma once

#include <cstdint>
#include <ctime>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tl/expected.hpp>
#include <utility>

#include "identity/agent/entry.h"
#include "identity/agent/identities.h"
#include "identity/agent_protocol.h"
#include "identity/agent_snapshot.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

class Snapshots {
 public:
  Snapshots();

  struct Offer {
    SnapshotAnswer answer;
    std::time_t svid_expires = 0;  // 0: none in it
    // Read-only, with a file position of its own: who gets it shares nothing with the others.
    // Empty when the receiver has this generation already.
    policy::UniqueFd fd;
  };
  // Any thread. The error is one line.
  tl::expected<Offer, std::string> offer(const Entry &entry, const View &view,
                                         const SnapshotAnswer &known);
  std::uint64_t epoch() const noexcept { return epoch_; }

 private:
  struct Made {
    std::uint64_t view_generation = 0;
    std::shared_ptr<const std::string> policy;
    AgentSnapshot content;
    std::uint64_t generation = 0;
    std::time_t svid_expires = 0;
    policy::UniqueFd sealed;
  };

  std::uint64_t epoch_ = 0;
  std::mutex mutex_;
  std::uint64_t last_generation_ = 0;
  std::map<std::pair<std::string, std::string>, Made> made_;  // by SPIFFE ID and policy's file
};

}  // namespace inlay::identity::agent
