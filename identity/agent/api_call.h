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
#include "identity/rpc/worker.h"
#include "identity/agent/workload_api.h"

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
  WorkloadApiHost host;
  ApiConnections connections;
  CallCounts counts;
  // FetchJWTSVID may wait for an upstream, which must not keep gRPC's own threads.
  rpc::Worker waiting{64};
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
