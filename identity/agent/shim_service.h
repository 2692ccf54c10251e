// What libinlay.so and the commands ask (identity/agent_protocol.h), answered from kernel truth of
// the moment: each request is its writer's, whoever connected.
#pragma once

#include <atomic>
#include <cstdint>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "identity/agent/attestor.h"
#include "identity/agent/audit_log.h"
#include "identity/agent/identities.h"
#include "identity/agent/metrics.h"
#include "identity/rpc/rate_limit.h"
#include "identity/agent/server.h"
#include "identity/agent/snapshots.h"
#include "identity/agent/status_report.h"

namespace inlay::identity::agent {

struct ShimServiceHost {
  Attestor &attestor;
  AuditLog &audit;
  Counters &counters;
  std::function<std::shared_ptr<const View>()> view;
  // Gives a connection to the Workload API; empty: there is none, and it is closed.
  std::function<void(policy::UniqueFd, const Caller &)> adopt;
  // What `status` says beside what is known here.
  std::function<void(StatusInput &)> status;
};

// Signatures a second: of one process, and of all of one user's.
struct SignatureLimits {
  std::uint32_t of_a_process = 2000;
  std::uint32_t of_a_user = 8000;
};

class ShimService : public Service {
 public:
  explicit ShimService(ShimServiceHost host, SignatureLimits limits = {});

  Reply answer(Request request) override;
  News news(std::uint64_t connection) override;
  Reply not_attached(std::uint64_t connection) override;
  void ended(std::uint64_t connection) override;
  void adopt(policy::UniqueFd connection, const Caller &peer) override;
  void cut_off(const Caller &peer, AgentRefusal refusal, std::string_view why) override;

 private:
  // A process that gets news.
  struct Attached {
    Caller caller;
    policy::UniqueFd pidfd;
    std::uint64_t start_time = 0;
    SnapshotAnswer known;
    AttachedProcess shown;
  };
  using ProcessKey = std::pair<pid_t, std::uint64_t>;  // and start time

  Reply attach(Request &request);
  Reply sign(Request &request);
  Reply probe(Request &request);
  Reply status(Request &request);
  Reply test(Request &request);
  Reply refuse(const Attestation &attestation, const Caller &caller, std::string_view request,
               const Refused &why);

  ShimServiceHost host_;
  Snapshots snapshots_;
  rpc::RateLimit<uid_t> requests_{4000, 16000};  // of a user, all kinds
  rpc::RateLimit<ProcessKey> of_a_process_;
  rpc::RateLimit<uid_t> of_a_user_;
  std::mutex mutex_;
  std::map<std::uint64_t, std::shared_ptr<Attached>> attached_;  // by connection
};

}  // namespace inlay::identity::agent
