#include "identity/agent/api_call.h"

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <utility>

#include "identity/rpc/monotonic.h"

namespace inlay::identity::agent {
namespace {

std::string_view name(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    default:
      return "UNAVAILABLE";  // there are no others here (Workload Endpoint, appendix A)
  }
}

// Workload Endpoint §3: against requests that somebody else makes a client send.
bool has_the_metadata(const grpc::CallbackServerContext &context) {
  const auto [first, last] = context.client_metadata().equal_range("workload.spiffe.io");
  return first != last && std::all_of(first, last, [](const auto &entry) {
           return entry.second == grpc::string_ref("true");
         });
}

// Workload Endpoint, appendix A: clients come back after both, but a helper may show the first as
// what it is, somebody's decision.
grpc::StatusCode code_of(AgentRefusal refusal) {
  switch (refusal) {
    case AgentRefusal::no_svid:
    case AgentRefusal::rate_limited:
    case AgentRefusal::internal:
      return grpc::StatusCode::UNAVAILABLE;
    default:
      return grpc::StatusCode::PERMISSION_DENIED;
  }
}

grpc::Status audited(const WorkloadApiHost &host, const Caller &caller, std::string_view method,
                     std::string_view spiffe_id, AgentRefusal refusal, grpc::StatusCode code,
                     std::string told) {
  host.audit({caller, method, spiffe_id, refusal, name(code), told});
  return {code, std::move(told)};
}

}  // namespace

CallCounts::Slot::~Slot() {
  if (counts_ == nullptr) return;
  const std::lock_guard lock(counts_->mutex_);
  const auto found = counts_->of_user_.find(user_);
  if (--found->second == 0) counts_->of_user_.erase(found);
}

std::optional<CallCounts::Slot> CallCounts::take(uid_t user) {
  const std::lock_guard lock(mutex_);
  std::size_t &count = of_user_[user];
  if (count >= most_) return std::nullopt;
  ++count;
  return Slot(this, user);
}

tl::expected<ApiCall, grpc::Status> ApiCall::begin(ApiShared &shared,
                                                   const grpc::CallbackServerContext &context,
                                                   std::string_view method) {
  auto connection = shared.connections.find(context.peer());
  const Caller caller = connection ? connection->caller : Caller{};
  const auto stop = [&](AgentRefusal refusal, grpc::StatusCode code, std::string told) {
    return tl::unexpected(audited(shared.host, caller, method, "", refusal, code, std::move(told)));
  };
  if (!has_the_metadata(context)) {
    return stop(AgentRefusal::malformed, grpc::StatusCode::INVALID_ARGUMENT,
                "the metadata \"workload.spiffe.io: true\" is missing");
  }
  if (!connection) {
    return stop(AgentRefusal::internal, grpc::StatusCode::UNAVAILABLE,
                "the agent does not know whose connection this is; connect again");
  }
  if (!shared.rates.take(caller.uid, rpc::monotonic_ns())) {
    return stop(AgentRefusal::rate_limited, grpc::StatusCode::UNAVAILABLE,
                "this user has made too many calls");
  }
  auto slot = shared.counts.take(caller.uid);
  if (!slot) {
    return stop(AgentRefusal::rate_limited, grpc::StatusCode::UNAVAILABLE,
                "this user has too many calls open");
  }
  return ApiCall(shared, method, std::move(connection), std::move(*slot));
}

tl::expected<Permitted, grpc::Status> ApiCall::attest() const {
  auto permitted = host().attest(connection_->caller, connection_->process.get());
  if (permitted) return std::move(*permitted);
  NotPermitted &why = permitted.error();
  return tl::unexpected(audited(host(), connection_->caller, method_, "", why.refusal,
                                code_of(why.refusal), std::move(why.told)));
}

void ApiCall::given(std::string_view spiffe_id) const {
  host().audit({connection_->caller, method_, spiffe_id, std::nullopt, "OK", ""});
}

grpc::Status ApiCall::refuse(grpc::StatusCode code, std::string told,
                             std::string_view spiffe_id) const {
  const AgentRefusal refusal = code == grpc::StatusCode::INVALID_ARGUMENT ? AgentRefusal::malformed
                               : code == grpc::StatusCode::PERMISSION_DENIED
                                   ? AgentRefusal::not_permitted
                                   : AgentRefusal::no_svid;
  return audited(host(), connection_->caller, method_, spiffe_id, refusal, code, std::move(told));
}

}  // namespace inlay::identity::agent
