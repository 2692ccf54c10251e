#include "identity/rpc/tls_client.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "identity/certificate.h"
#include "identity/rpc/socket_address.h"
#include "identity/rpc/tls_relay.h"
#include "identity/verify.h"

namespace inlay::identity::rpc {
namespace {

using Failure = tl::unexpected<std::string>;

// True when the socket is ready before the deadline.
bool wait_for(int fd, short events, std::int64_t deadline) {
  for (;;) {
    const std::int64_t left = deadline - monotonic_ms();
    if (left <= 0) return false;
    pollfd one{fd, events, 0};
    const int ready = ::poll(&one, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

tl::expected<policy::UniqueFd, std::string> connect_to(const addrinfo &address,
                                                       std::int64_t deadline) {
  policy::UniqueFd fd(
      ::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd) return Failure(std::strerror(errno));
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return Failure(std::strerror(errno));
    if (!wait_for(fd.get(), POLLOUT, deadline)) return Failure(std::strerror(ETIMEDOUT));
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Failure(std::strerror(error));
  }
  keep_alive(fd.get());
  return fd;
}

// The certificate that the pin means, among those sent.
X509 *pinned(const STACK_OF(X509) * chain, const Pin &pin) {
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    if (public_key_digest(sk_X509_value(chain, i)) == pin) return sk_X509_value(chain, i);
  }
  return nullptr;
}

// The trust domain of the authority, or why it is not the one.
tl::expected<std::string, std::string> judge(const STACK_OF(X509) * chain,
                                             const AuthorityTrust &trust, std::time_t now) {
  if (sk_X509_num(chain) < 1) return Failure("it shows no certificate");
  const auto claimed = spiffe_id_of(sk_X509_value(chain, 0));
  if (!claimed)
    return Failure("what answers there is no inlay-ca: its certificate has no SPIFFE ID");
  BundleSet of_pin;
  const BundleSet *bundles = trust.bundles;
  if (trust.pin) {
    X509 *const root = pinned(chain, *trust.pin);
    if (root == nullptr) {
      return Failure(
          "its root is not the one that the token's pin names: this is another authority, or "
          "somebody in between; take a new token from the authority you mean");
    }
    X509_up_ref(root);
    of_pin[std::string(claimed->trust_domain())].authorities.emplace_back(root);
    bundles = &of_pin;
  }
  const auto id = verify_x509_svid(chain, *bundles, now);
  if (!id) {
    const VerifyFailure &failure = id.error();
    const bool by_clock =
        failure.error == VerifyError::expired || failure.error == VerifyError::not_yet_valid;
    return Failure(
        fmt::format("its certificate is not good: {}{}{}{}", sentence(failure.error),
                    failure.detail.empty() ? "" : ": ", failure.detail,
                    by_clock ? fmt::format("; the clock here says {}", time_text(now)) : ""));
  }
  if (id->path() != kAuthorityPath ||
      (!trust.trust_domain.empty() && id->trust_domain() != trust.trust_domain)) {
    return Failure(fmt::format("what answers there is {}, not an authority", id->uri()));
  }
  return std::string(id->trust_domain());
}

std::string handshake_problem(int error, const std::string &judged) {
  if (!judged.empty()) {
    ERR_clear_error();
    return judged;
  }
  return "TLS failed: " + tls_error(error);
}

}  // namespace

struct TlsClient::State {
  TlsRelay relay;
};

TlsClient::TlsClient() : state_(std::make_unique<State>()) {}
TlsClient::~TlsClient() = default;

tl::expected<Dialled, std::string> TlsClient::dial(std::string_view where,
                                                   const AuthorityTrust &trust, const X509Svid *own,
                                                   std::time_t now, int seconds) {
  const std::int64_t deadline = monotonic_ms() + std::int64_t{seconds} * 1000;
  const auto bad = [&](const std::string &why) {
    return Failure(fmt::format("the authority at {}: {}", where, why));
  };
  const auto place = parse_host_port(where);
  if (!place) return Failure(place.error());
  const auto addresses = resolve(*place, false);
  if (!addresses) return bad(addresses.error());
  policy::UniqueFd network;
  std::string why = "it has no address";
  for (const addrinfo *address = addresses->get(); address != nullptr && !network;
       address = address->ai_next) {
    auto connected = connect_to(*address, deadline);
    if (connected) {
      network = std::move(*connected);
    } else {
      why = "cannot be reached: " + connected.error();
    }
  }
  if (!network) return bad(why);

  auto context = make_tls_context(
      Side::client, own != nullptr ? std::optional<TlsCredentials>(*own) : std::nullopt);
  if (!context) return bad(context.error());
  auto connection = std::make_unique<TlsRelay::Connection>();
  connection->context = std::move(*context);
  connection->network = std::move(network);
  std::string judged, trust_domain;
  connection->judge = [&](const STACK_OF(X509) * chain) {
    auto found = judge(chain, trust, now);
    judged = found ? "" : found.error();
    if (found) trust_domain = std::move(*found);
    return found.has_value();
  };
  const int fd = connection->network.get();
  connection->ssl = make_tls(connection->context, Side::client, fd, connection->judge);
  if (!connection->ssl) return bad("out of memory");
  for (;;) {
    ERR_clear_error();
    const int result = SSL_do_handshake(connection->ssl.get());
    if (result == 1) break;
    const int error = SSL_get_error(connection->ssl.get(), result);
    const bool reads = error == SSL_ERROR_WANT_READ;
    if (!reads && error != SSL_ERROR_WANT_WRITE) return bad(handshake_problem(error, judged));
    if (!wait_for(fd, reads ? POLLIN : POLLOUT, deadline)) return bad("does not answer in time");
  }
  // There is no second handshake, and what it would refer to ends here.
  SSL_set_ex_data(connection->ssl.get(), 0, nullptr);
  connection->judge = nullptr;
  if (!speaks_http2(connection->ssl.get())) return bad("what answers there speaks no HTTP/2");
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return bad(std::strerror(errno));
  }
  connection->plain = policy::UniqueFd(ends[0]);
  policy::UniqueFd clear(ends[1]);
  if (!state_->relay.add(std::move(connection))) return bad("no thread to be had");
  return Dialled{std::move(clear), std::move(trust_domain)};
}

}  // namespace inlay::identity::rpc
