#include "identity/ca/server.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>

#include <chrono>
#include <ctime>
#include <utility>

#include "identity/ca/federation.h"
#include "identity/rpc/grpc_quiet.h"
#include "identity/rpc/tls_server.h"

namespace inlay::identity::ca {
namespace {

constexpr int kMaxRequest = 32 * 1024;
constexpr std::size_t kGrpcMemory = std::size_t{256} << 20;
constexpr int kIdleMilliseconds = 300 * 1000;
constexpr std::time_t kOwnLifetime = 86400;

}  // namespace

struct Server::State {
  State(ServerSettings given, ServerHost its) : settings(std::move(given)), host(std::move(its)) {}

  // False: the old one stays.
  tl::expected<X509Svid, std::string> own_svid();
  void changed();

  const ServerSettings settings;
  const ServerHost host;
  std::unique_ptr<InForceKeeper> keeper;
  std::unique_ptr<Issuing> issuing;
  std::unique_ptr<EnrolmentService> service;
  std::unique_ptr<grpc::Server> grpc;
  std::unique_ptr<rpc::TlsServer> tls;
  std::unique_ptr<WebEndpoints> web;
  std::unique_ptr<Federation> federation;
  // Of the thread that looks at the store, after the start.
  std::time_t own_until = 0;
  std::array<std::uint8_t, 32> own_pin{};

  ~State() {
    federation.reset();
    if (keeper) keeper->stop();  // before what it calls; all of that asks it until it ends
    web.reset();
    tls.reset();
    if (grpc) grpc->Shutdown(std::chrono::system_clock::now());
    grpc.reset();
  }
};

tl::expected<X509Svid, std::string> Server::State::own_svid() {
  const std::time_t now = std::time(nullptr);
  const auto in_force = keeper->now();
  auto made = in_force->signer.server_svid(now, kOwnLifetime, settings.web.est.names);
  if (!made) return tl::unexpected(made.error());
  if (auto kept = host.store.record(made->issuance, ""); !kept) {
    return tl::unexpected(kept.error().message);
  }
  own_until = made->svid.not_after;
  own_pin = in_force->signer.pin();
  return std::move(made->svid);
}

void Server::State::changed() {
  const std::time_t now = std::time(nullptr);
  // At half of its life, and at once when it would end at another root than tokens name.
  if (own_until - now < kOwnLifetime / 2 || own_until - now > kOwnLifetime ||
      own_pin != keeper->now()->signer.pin()) {
    auto fresh = own_svid();
    const auto used = fresh ? tls->use(*fresh) : tl::unexpected(fresh.error());
    if (!used) host.note("the authority's own SVID is not renewed: " + used.error());
    if (used) web->use(*fresh);
  }
  web->look_at_files();
  service->refresh();
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() = default;

std::vector<std::string> Server::addresses() const { return state_->tls->addresses(); }
std::vector<std::string> Server::web_addresses() const { return state_->web->addresses(); }
std::shared_ptr<const InForce> Server::in_force() const { return state_->keeper->now(); }

tl::expected<std::unique_ptr<Server>, std::string> Server::start(ServerSettings settings,
                                                                 ServerHost host) {
  rpc::quiet_grpc();
  auto state = std::make_unique<State>(std::move(settings), std::move(host));
  State *const it = state.get();
  auto keeper =
      InForceKeeper::open(it->host.store, it->host.seal, it->settings.in_force, it->host.note);
  if (!keeper) return tl::unexpected(keeper.error());
  it->keeper = std::move(*keeper);
  it->issuing =
      std::make_unique<Issuing>(IssuingHost{.store = it->host.store,
                                            .in_force = [it] { return it->keeper->now(); },
                                            .audit = it->host.audit,
                                            .now = [] { return std::time(nullptr); }},
                                it->settings.issuing);
  it->service = std::make_unique<EnrolmentService>(
      *it->issuing, [it](const std::string &peer) { return it->tls->peer(peer); });
  grpc::ServerBuilder builder;
  builder.RegisterService(it->service.get());
  builder.SetMaxReceiveMessageSize(kMaxRequest);
  builder.SetResourceQuota(grpc::ResourceQuota("enrolment").Resize(kGrpcMemory));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMilliseconds);
  it->grpc = builder.BuildAndStart();
  if (!it->grpc) return tl::unexpected(std::string("gRPC does not start"));
  auto own = it->own_svid();
  if (!own) return tl::unexpected(own.error());
  auto tls = rpc::TlsServer::listen(
      {.listen = it->settings.listen,
       .connections = it->settings.connections,
       .connections_of_an_address = it->settings.connections_of_an_address},
      {.bundles = [it] { return it->keeper->now()->trusted; },
       .now = [] { return std::time(nullptr); },
       .adopt = [it](int fd, const auto &) { grpc::AddInsecureChannelFromFd(it->grpc.get(), fd); },
       .refused =
           [it](std::string_view address, std::string_view why) {
             it->host.audit({.event = "refused", .address = address, .detail = why});
           }},
      *own);
  if (!tls) return tl::unexpected(tls.error());
  it->tls = std::move(*tls);
  auto web = WebEndpoints::start(
      it->settings.web,
      {.in_force = [it] { return it->keeper->now(); },
       .issuing = *it->issuing,
       .refused =
           [it](std::string_view address, std::string_view why) {
             it->host.audit({.event = "refused", .address = address, .detail = why});
           },
       .note = it->host.note},
      *own);
  if (!web) return tl::unexpected(web.error());
  it->web = std::move(*web);
  it->keeper->start([it] { it->changed(); });
  it->federation = std::make_unique<Federation>(
      it->settings.federations,
      Federation::Host{.store = it->host.store, .audit = it->host.audit, .note = it->host.note});
  it->tls->start();
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

}  // namespace inlay::identity::ca
