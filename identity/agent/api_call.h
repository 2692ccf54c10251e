// What all calls of the Workload API go through first: the mandatory metadata, whose connection it
// is, how many calls that user has, and what the process may have.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

#include "identity/agent/api_connections.h"
#include "identity/agent/work_queue.h"
#include "identity/agent/workload_api.h"
#include "identity/rpc/rate_limit.h"

namespace inlay::identity::agent {

// How many calls each user has at a time.
class CallCounts {
 public:
  explicit CallCounts(std::size_t most) : most_(most) {}

  // One call, from its beginning to its end.
  class Slot {
   public:
    Slot(CallCounts *counts, uid_t user) : counts_(counts), user_(user) {}
    Slot(Slot &&other) noexcept
        : counts_(std::exchange(other.counts_, nullptr)), user_(other.user_) {}
    Slot &operator=(Slot &&) = delete;
    ~Slot();

   private:
    CallCounts *counts_;
    uid_t user_;
  };
  std::optional<Slot> take(uid_t user);

 private:
  const std::size_t most_;
  std::mutex mutex_;
  std::map<uid_t, std::size_t> of_user_;
};

// What all calls share.
struct ApiShared {
  ApiShared(WorkloadApiHost given, const WorkloadApiLimits &limits)
      : host(std::move(given)),
        connections(limits.connections, limits.connections_of_a_user, host.cut_off),
        counts(limits.calls_of_a_user),
        rates(limits.calls_a_second, 2 * limits.calls_a_second) {}

  const WorkloadApiHost host;
  ApiConnections connections;
  CallCounts counts;
  rpc::RateLimit<uid_t> rates;
  // FetchJWTSVID may wait for an upstream, which must not keep gRPC's own threads, nor other users.
  // Threads start with the first. Throws std::system_error, std::bad_alloc.
  WorkQueue &waiting() {
    std::call_once(waits_,
                   [this] { waiting_ = std::make_unique<WorkQueue>(kWaiting, kWaiting - 1); });
    return *waiting_;
  }

 private:
  static constexpr std::size_t kWaiting = 4;
  std::once_flag waits_;
  std::unique_ptr<WorkQueue> waiting_;
};

// A call that was let in. Copies nothing of gRPC's: usable as long as the slot is wanted.
class ApiCall {
 public:
  // The status is what the caller is to be told; it has been audited.
  static tl::expected<ApiCall, grpc::Status> begin(ApiShared &shared,
                                                   const grpc::CallbackServerContext &context,
                                                   std::string_view method);

  // What the process is now.
  tl::expected<Permitted, grpc::Status> attest() const;
  // Both are audited: something was given to an ID, or refused to it ("" where it has none).
  void given(std::string_view spiffe_id) const;
  grpc::Status refuse(grpc::StatusCode code, std::string told,
                      std::string_view spiffe_id = "") const;

  const WorkloadApiHost &host() const { return shared_->host; }
  const Caller &caller() const { return connection_->caller; }

 private:
  ApiCall(ApiShared &shared, std::string_view method,
          std::shared_ptr<const ApiConnection> connection, CallCounts::Slot slot)
      : shared_(&shared),
        method_(method),
        connection_(std::move(connection)),
        slot_(std::move(slot)) {}

  ApiShared *shared_;
  std::string_view method_;  // a literal
  std::shared_ptr<const ApiConnection> connection_;
  CallCounts::Slot slot_;
};

}  // namespace inlay::identity::agent
