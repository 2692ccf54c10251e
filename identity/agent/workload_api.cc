#include "identity/agent/workload_api.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>
#include <sys/socket.h>

#include <chrono>
#include <mutex>
#include <utility>

#include "identity/agent/api_service.h"
#include "identity/agent/grpc_quiet.h"

namespace inlay::identity::agent {
namespace {

// The largest request is a token to be validated.
constexpr int kMaxRequest = 32 * 1024;
constexpr int kStreamsOfAConnection = 32;
// What gRPC holds for all connections together; it ends calls rather than take more.
constexpr std::size_t kMaxMemory = 64u << 20;

std::unique_ptr<grpc::Server> start(ApiService &service, const WorkloadApiLimits &limits) {
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  builder.SetMaxReceiveMessageSize(kMaxRequest);
  builder.SetResourceQuota(grpc::ResourceQuota("workload api").Resize(kMaxMemory));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsOfAConnection);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                             static_cast<int>(limits.idle_seconds * 1000));
  return builder.BuildAndStart();
}

}  // namespace

struct WorkloadApi::State {
  State(WorkloadApiHost host, WorkloadApiLimits given)
      : limits(given),
        shared{std::move(host), ApiConnections(given.connections, given.connections_of_a_user),
               CallCounts(given.calls_of_a_user)} {}

  // gRPC's threads and memory are for those agents alone that have a client of this API.
  struct Running {
    explicit Running(State &state) : service(state.shared), server(start(service, state.limits)) {}
    ~Running() {
      if (server) server->Shutdown(std::chrono::system_clock::now());
    }
    ApiService service;
    std::unique_ptr<grpc::Server> server;
    Worker pushing{1};
  };

  const WorkloadApiLimits limits;
  ApiShared shared;
  std::mutex mutex;
  std::unique_ptr<Running> running;
};

WorkloadApi::WorkloadApi(WorkloadApiHost host, WorkloadApiLimits limits)
    : state_(std::make_unique<State>(std::move(host), limits)) {}

WorkloadApi::~WorkloadApi() = default;

bool WorkloadApi::adopt(policy::UniqueFd connection, const Caller &caller) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->running) {
    quiet_grpc();
    state_->running = std::make_unique<State::Running>(*state_);
  }
  if (!state_->running->server) return false;
  if (!state_->shared.connections.add(connection.get(), caller)) return false;
  // gRPC wants it so; and SCM_CREDENTIALS, which the agent's own protocol asks for, would only
  // truncate gRPC's control messages.
  const int off = 0;
  ::setsockopt(connection.get(), SOL_SOCKET, SO_PASSCRED, &off, sizeof off);
  ::fcntl(connection.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(connection.get(), F_SETFD, FD_CLOEXEC);
  grpc::AddInsecureChannelFromFd(state_->running->server.get(), connection.release());
  return true;
}

void WorkloadApi::changed() {
  const std::lock_guard lock(state_->mutex);
  State::Running *const running = state_->running.get();
  // One that waits to begin will see this change, too.
  if (running != nullptr) running->pushing.give([running] { running->service.refresh_streams(); });
}

}  // namespace inlay::identity::agent
