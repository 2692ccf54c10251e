#include "identity/agent/workload_api.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <utility>

#include "identity/agent/api_relay.h"
#include "identity/agent/api_service.h"
#include "identity/rpc/grpc_quiet.h"
#include "identity/rpc/worker.h"

namespace inlay::identity::agent {
namespace {

// The largest request is a token to be validated.
constexpr int kMaxRequest = 32 * 1024;
constexpr int kStreamsOfAConnection = 32;

// gRPC, for the connections of one user. It takes in a message whole before it looks at its size,
// up to 4 GiB; what stops it is the quota of its server. Hence a server for each user: who fills
// his own quota has his own calls ended, and nobody else's.
class UserServer {
 public:
  UserServer(ApiShared &shared, const WorkloadApiLimits &limits) : service_(shared) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    builder.SetMaxReceiveMessageSize(kMaxRequest);
    builder.SetResourceQuota(grpc::ResourceQuota("workload api").Resize(limits.bytes_of_a_user));
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsOfAConnection);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                               static_cast<int>(limits.idle_seconds * 1000));
    server_ = builder.BuildAndStart();
  }
  ~UserServer() {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
  }
  UserServer(const UserServer &) = delete;
  UserServer &operator=(const UserServer &) = delete;

  void serve(policy::UniqueFd connection) {
    if (server_) grpc::AddInsecureChannelFromFd(server_.get(), connection.release());
  }
  void refresh_streams() { service_.refresh_streams(); }

 private:
  ApiService service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

struct WorkloadApi::State {
  State(WorkloadApiHost host, WorkloadApiLimits given)
      : limits(given),
        shared(std::move(host), given),
        relay(shared.host.cut_off),
        worker(given.connections + 1) {}

  void serve(policy::UniqueFd connection, uid_t user);
  void refresh();
  void forget_users_who_left();

  const WorkloadApiLimits limits;
  ApiShared shared;
  std::map<uid_t, UserServer> servers;  // the worker's

  ApiRelay relay;  // after what it calls
  std::mutex mutex;
  bool any_client = false;
  bool refresh_waits = false;
  // Starts gRPC, which takes a while, and tells streams what is new. An agent without a client has
  // no thread and no memory of this.
  rpc::Worker worker;
};

void WorkloadApi::State::serve(policy::UniqueFd connection, uid_t user) {
  if (servers.empty()) rpc::quiet_grpc();
  forget_users_who_left();
  servers.try_emplace(user, shared, limits).first->second.serve(std::move(connection));
}

void WorkloadApi::State::refresh() {
  {
    // What changes from here on is not seen for sure, and needs another look.
    const std::lock_guard lock(mutex);
    refresh_waits = false;
  }
  forget_users_who_left();
  for (auto &[user, server] : servers) server.refresh_streams();
}

void WorkloadApi::State::forget_users_who_left() {
  std::erase_if(servers,
                [this](const auto &entry) { return !shared.connections.any_of(entry.first); });
}

WorkloadApi::WorkloadApi(WorkloadApiHost host, WorkloadApiLimits limits)
    : state_(std::make_unique<State>(std::move(host), limits)) {}

WorkloadApi::~WorkloadApi() {
  state_->worker.end();  // before what it works on
}

WorkloadApiLimits WorkloadApiLimits::of(std::size_t descriptors) noexcept {
  constexpr std::size_t kOwn = 64, kShare = 16;  // a quarter of what is not the agent's own
  WorkloadApiLimits out;
  const std::size_t usable = descriptors > 2 * kOwn ? descriptors - kOwn : kOwn;
  out.connections = std::clamp<std::size_t>(usable / kShare, 8, out.connections);
  out.connections_of_a_user =
      std::clamp<std::size_t>(out.connections / 8, 4, out.connections_of_a_user);
  return out;
}

bool WorkloadApi::adopt(policy::UniqueFd connection, const Caller &caller) {
  const auto no = [&](std::string_view why) {
    state_->shared.host.cut_off(caller, why);
    return false;
  };
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return no("no descriptor is left");
  }
  policy::UniqueFd relayed(ends[0]);
  policy::UniqueFd served(ends[1]);
  ::fcntl(connection.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(connection.get(), F_SETFD, FD_CLOEXEC);
  const auto client = std::make_shared<const policy::UniqueFd>(std::move(connection));
  auto streams = state_->shared.connections.add(served.get(), client, caller);
  if (!streams) return no(streams.error());
  if (!state_->relay.add(client, std::move(relayed), caller,
                         std::make_unique<rpc::Http2Police>(*std::move(streams),
                                                            2 * state_->limits.calls_of_a_user))) {
    return no("no thread is to be had");
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->any_client = true;
  }
  // Shared, since what a function object holds must be copyable.
  const auto held = std::make_shared<policy::UniqueFd>(std::move(served));
  return state_->worker.give(
      [state = state_.get(), held, user = caller.uid] { state->serve(std::move(*held), user); });
}

void WorkloadApi::changed() {
  const std::lock_guard lock(state_->mutex);
  if (!state_->any_client || state_->refresh_waits) return;
  state_->refresh_waits = state_->worker.give([state = state_.get()] { state->refresh(); });
}

}  // namespace inlay::identity::agent
