#include "identity/rpc/tls_server.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "identity/certificate.h"
#include "identity/rpc/socket_address.h"
#include "identity/rpc/tls_relay.h"
#include "identity/verify.h"

namespace inlay::identity::rpc {
namespace {

constexpr int kBacklog = 512;

std::optional<std::uint64_t> cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) return std::nullopt;
  return cookie;
}

void set_option(int fd, int level, int name, int value) {
  ::setsockopt(fd, level, name, &value, sizeof value);
}

tl::expected<policy::UniqueFd, std::string> listen_at(const addrinfo &address) {
  policy::UniqueFd fd(
      ::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd) return tl::unexpected(std::string(std::strerror(errno)));
  set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (address.ai_family == AF_INET6) set_option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (::bind(fd.get(), address.ai_addr, address.ai_addrlen) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return tl::unexpected(std::string(std::strerror(errno)));
  }
  return fd;
}

// Whose a certificate was that has ended, is not good yet or is revoked: an authority of the bundle
// has signed it and, in its last second, it was good but for what was revoked.
std::optional<SpiffeId> once_of(const STACK_OF(X509) * chain, const BundleSet &bundles,
                                const SpiffeId &claimed, std::time_t its_end) {
  const auto found = bundles.find(claimed.trust_domain());
  if (found == bundles.end()) return std::nullopt;
  BundleSet without_crls;
  auto &authorities = without_crls[found->first].authorities;
  for (const X509Ptr &authority : found->second.authorities) {
    X509_up_ref(authority.get());
    authorities.emplace_back(authority.get());
  }
  const auto id = verify_x509_svid(chain, without_crls, its_end - 1);
  return id ? std::optional(*id) : std::nullopt;
}

}  // namespace

// Who is there: counted by address, and found by the number of the descriptor that gRPC has.
class Peers {
 public:
  bool enter(const std::string &host, std::size_t most, std::size_t most_of_one) {
    const std::lock_guard lock(mutex_);
    std::size_t &of_one = by_host_[host];
    if (all_ >= most || of_one >= most_of_one) {
      if (of_one == 0) by_host_.erase(host);
      return false;
    }
    ++of_one;
    ++all_;
    return true;
  }
  void leave(const std::string &host) {
    const std::lock_guard lock(mutex_);
    --all_;
    const auto found = by_host_.find(host);
    if (found != by_host_.end() && --found->second == 0) by_host_.erase(found);
  }
  void add(int fd, std::shared_ptr<const PeerIdentity> peer) {
    const auto cookie = cookie_of(fd);
    if (!cookie) return;
    const std::lock_guard lock(mutex_);
    // gRPC does not say when it closes a descriptor. Its number then names nothing, or another.
    std::erase_if(by_fd_,
                  [](const auto &entry) { return cookie_of(entry.first) != entry.second.first; });
    by_fd_.insert_or_assign(fd, std::pair(*cookie, std::move(peer)));
  }
  std::shared_ptr<const PeerIdentity> find(std::string_view grpc_peer) const {
    constexpr std::string_view kPrefix = "fd:";
    if (!grpc_peer.starts_with(kPrefix)) return nullptr;
    const char *const end = grpc_peer.data() + grpc_peer.size();
    int fd = -1;
    const auto parsed = std::from_chars(grpc_peer.data() + kPrefix.size(), end, fd);
    if (parsed.ec != std::errc() || parsed.ptr != end) return nullptr;
    const std::lock_guard lock(mutex_);
    const auto found = by_fd_.find(fd);
    if (found == by_fd_.end() || cookie_of(fd) != found->second.first) return nullptr;
    return found->second.second;
  }

 private:
  mutable std::mutex mutex_;
  std::size_t all_ = 0;
  std::map<std::string, std::size_t, std::less<>> by_host_;
  std::map<int, std::pair<std::uint64_t, std::shared_ptr<const PeerIdentity>>> by_fd_;
};

namespace {

// A seat among the connections, given back when the connection is gone.
struct Seat {
  Seat(std::shared_ptr<Peers> among, std::string from)
      : peers(std::move(among)), host(std::move(from)) {}
  ~Seat() { peers->leave(host); }
  Seat(const Seat &) = delete;
  Seat &operator=(const Seat &) = delete;

  const std::shared_ptr<Peers> peers;
  const std::string host;
  PeerIdentity found;  // by the handshake
};

}  // namespace

struct TlsServer::State {
  TlsServerSettings settings;
  Host host;
  std::vector<policy::UniqueFd> listeners;
  policy::UniqueFd wake{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::shared_ptr<Peers> peers = std::make_shared<Peers>();
  mutable std::mutex mutex;
  std::shared_ptr<SSL_CTX> context;
  TlsRelay relay;
  std::thread thread;

  void run();
  void take(policy::UniqueFd network, const sockaddr_storage &from);
  void judge(const STACK_OF(X509) * chain, PeerIdentity &peer) const;
  policy::UniqueFd establish(const TlsRelay::Connection &connection, const Seat &seat);
};

// A certificate that is no good does not end the connection: the service can say why, an alert
// could not.
void TlsServer::State::judge(const STACK_OF(X509) * chain, PeerIdentity &peer) const {
  if (sk_X509_num(chain) < 1) return;
  const X509 *leaf = sk_X509_value(chain, 0);
  peer.serial = serial_text(leaf);
  peer.not_after = to_time(X509_get0_notAfter(leaf)).value_or(0);
  const auto bundles = host.bundles();
  const auto id = verify_x509_svid(chain, *bundles, host.now());
  if (id) {
    peer.id = *id;
    return;
  }
  peer.problem = std::string(sentence(id.error().error));
  if (!id.error().detail.empty()) peer.problem += ": " + id.error().detail;
  const auto claimed = spiffe_id_of(leaf);
  if (!claimed) return;
  peer.once = once_of(chain, *bundles, *claimed, peer.not_after);
  if (!peer.once) peer.claim = claimed->uri();
}

policy::UniqueFd TlsServer::State::establish(const TlsRelay::Connection &connection,
                                             const Seat &seat) {
  int ends[2];
  if ((settings.application == Application::grpc && !speaks_http2(connection.ssl.get())) ||
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return policy::UniqueFd();
  }
  const auto peer = std::make_shared<const PeerIdentity>(seat.found);
  peers->add(ends[1], peer);
  host.adopt(ends[1], peer);
  return policy::UniqueFd(ends[0]);
}

void TlsServer::State::take(policy::UniqueFd network, const sockaddr_storage &from) {
  const std::string who = host_text(from);
  if (!peers->enter(who, settings.connections, settings.connections_of_an_address)) {
    if (host.refused) host.refused(address_text(from), "too many connections");
    return;
  }
  const auto seat = std::make_shared<Seat>(peers, who);
  seat->found.address = address_text(from);
  keep_alive(network.get());
  auto connection = std::make_unique<TlsRelay::Connection>();
  connection->held = seat;
  connection->network = std::move(network);
  connection->judge = [this, seat](const STACK_OF(X509) * chain) {
    judge(chain, seat->found);
    return true;
  };
  {
    const std::lock_guard lock(mutex);
    connection->context = context;
  }
  connection->ssl =
      make_tls(connection->context, Side::server, connection->network.get(), connection->judge);
  if (!connection->ssl) return;
  if (settings.application == Application::grpc) {
    connection->police = std::make_unique<Http2Police>(
        std::make_shared<std::atomic<std::size_t>>(0), settings.streams_of_a_connection);
  }
  connection->established = [this, seat](const TlsRelay::Connection &it) {
    return establish(it, *seat);
  };
  connection->failed = [this, seat](const TlsRelay::Connection &, const std::string &why) {
    if (host.refused) host.refused(seat->found.address, why);
  };
  connection->deadline = monotonic_ms() + settings.handshake_seconds * 1000;
  relay.add(std::move(connection));
}

void TlsServer::State::run() {
  std::vector<pollfd> polled{{wake.get(), POLLIN, 0}};
  for (const auto &listener : listeners) polled.push_back({listener.get(), POLLIN, 0});
  bool short_of_descriptors = false;
  for (;;) {
    // Without descriptors accept() fails at once and for as long: others must give some back.
    const int count = ::poll(polled.data(), short_of_descriptors ? 1 : polled.size(),
                             short_of_descriptors ? 100 : -1);
    if (polled[0].revents != 0) return;
    if (count < 0 && errno != EINTR) return;
    short_of_descriptors = false;
    for (std::size_t at = 1; at < polled.size(); ++at) {
      sockaddr_storage from{};
      socklen_t size = sizeof from;
      policy::UniqueFd network(::accept4(polled[at].fd, reinterpret_cast<sockaddr *>(&from), &size,
                                         SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (network) {
        take(std::move(network), from);
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        short_of_descriptors = true;
      }
    }
  }
}

TlsServer::TlsServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

TlsServer::~TlsServer() {
  ::eventfd_write(state_->wake.get(), 1);
  if (state_->thread.joinable()) state_->thread.join();
}

tl::expected<std::unique_ptr<TlsServer>, std::string> TlsServer::listen(TlsServerSettings settings,
                                                                        Host host,
                                                                        const TlsCredentials &own) {
  auto state = std::make_unique<State>();
  state->settings = std::move(settings);
  state->host = std::move(host);
  for (const std::string &text : state->settings.listen) {
    const auto where = parse_host_port(text);
    if (!where) return tl::unexpected(where.error());
    const auto addresses = resolve(*where, true);
    if (!addresses) return tl::unexpected(addresses.error());
    for (const addrinfo *address = addresses->get(); address; address = address->ai_next) {
      auto listener = listen_at(*address);
      if (!listener) {
        return tl::unexpected(fmt::format("cannot listen at {}: {}", text, listener.error()));
      }
      state->listeners.push_back(std::move(*listener));
    }
  }
  std::unique_ptr<TlsServer> server(new TlsServer(std::move(state)));
  if (auto used = server->use(own); !used) return tl::unexpected(used.error());
  return server;
}

void TlsServer::start() {
  State *const running = state_.get();
  running->thread = std::thread([running] { running->run(); });
}

std::vector<std::string> TlsServer::addresses() const {
  std::vector<std::string> out;
  for (const auto &listener : state_->listeners) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    ::getsockname(listener.get(), reinterpret_cast<sockaddr *>(&address), &size);
    out.push_back(address_text(address));
  }
  return out;
}

tl::expected<void, std::string> TlsServer::use(const TlsCredentials &own) {
  auto context = make_tls_context(Side::server, own, state_->settings.application,
                                  state_->settings.ask_client);
  if (!context) return tl::unexpected(context.error());
  const std::lock_guard lock(state_->mutex);
  state_->context = std::move(*context);
  return {};
}

std::shared_ptr<const PeerIdentity> TlsServer::peer(std::string_view grpc_peer) const {
  return state_->peers->find(grpc_peer);
}

}  // namespace inlay::identity::rpc
