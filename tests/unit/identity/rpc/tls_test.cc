// The two ends of a connection against each other, with real gRPC behind them, and hostile clients
// made of OpenSSL alone.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <mutex>

#include "../certificates.h"
#include "enrolment.grpc.pb.h"
#include "identity/certificate.h"
#include "identity/rpc/grpc_quiet.h"
#include "identity/rpc/socket_address.h"
#include "identity/rpc/tls_client.h"
#include "identity/rpc/tls_context.h"
#include "identity/rpc/tls_server.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::rpc;
using inlay::testing::Identity;
using inlay::testing::Knobs;
namespace v1 = inlay::enrolment::v1;

namespace {

constexpr const char *kDomain = "example.org";
constexpr const char *kAuthority = "spiffe://example.org/inlay/ca";
constexpr const char *kNode = "spiffe://example.org/inlay/node/web-1";

X509Svid svid_of(const Identity &identity, const X509 *root = nullptr) {
  std::string chain = testing::chain_pem(identity);
  if (root != nullptr) chain += testing::to_pem(root);
  auto svid = parse_svid(chain, testing::to_pem(identity.key.get()));
  REQUIRE(svid);
  return std::move(*svid);
}

// Says who it was asked by.
class WhoAmI : public v1::Enrolment::Service {
 public:
  const TlsServer *server = nullptr;
  grpc::Status SignJwt(grpc::ServerContext *context, const v1::SignJwtRequest *,
                       v1::JwtSvid *answer) override {
    const auto peer = server->peer(context->peer());
    if (!peer) return {grpc::StatusCode::INTERNAL, "nobody"};
    if (!peer->problem.empty()) {
      return {grpc::StatusCode::UNAUTHENTICATED,
              peer->problem + (peer->once ? "; once " + peer->once->uri() : "") +
                  (peer->claim.empty() ? "" : "; says " + peer->claim)};
    }
    answer->set_token(peer->id ? peer->id->uri() + " " + peer->serial : "anonymous");
    answer->set_not_after(peer->not_after);
    return grpc::Status::OK;
  }
};

class Server {
 public:
  explicit Server(TlsServerSettings settings = {}, bool serves = true) {
    ::signal(SIGPIPE, SIG_IGN);
    quiet_grpc();
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    grpc_ = builder.BuildAndStart();
    settings.listen = {"127.0.0.1:0"};
    TlsServer::Host host{
        .bundles = [this] { return bundles_; },
        .now = [] { return testing::now(); },
        .adopt = [this](int fd, const auto &) { grpc::AddInsecureChannelFromFd(grpc_.get(), fd); },
        .refused =
            [this](std::string_view, std::string_view why) {
              const std::lock_guard lock(mutex_);
              refused_.emplace_back(why);
              news_.notify_all();
            }};
    const X509Svid own = svid_of(testing::issue(root, kAuthority), root.certificate.get());
    auto tls = TlsServer::listen(settings, std::move(host), own);
    REQUIRE_MESSAGE(tls, tls.error());
    tls_ = std::move(*tls);
    service_.server = tls_.get();
    if (serves) tls_->start();
  }
  ~Server() {
    tls_.reset();
    grpc_->Shutdown(std::chrono::system_clock::now());
  }
  std::string where() const { return tls_->addresses().at(0); }
  TlsServer &tls() { return *tls_; }
  std::string next_refusal() {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [this] { return !refused_.empty(); });
    std::string first = refused_.front();
    refused_.erase(refused_.begin());
    return first;
  }

  const Identity root = testing::make_authority(kDomain);

 private:
  std::shared_ptr<const BundleSet> bundles_ =
      std::make_shared<const BundleSet>(testing::bundles_of({{kDomain, root.certificate.get()}}));
  WhoAmI service_;
  std::unique_ptr<grpc::Server> grpc_;
  std::mutex mutex_;
  std::condition_variable news_;
  std::vector<std::string> refused_;
  std::unique_ptr<TlsServer> tls_;
};

struct Answer {
  grpc::Status status;
  std::string token;
};

Answer ask(policy::UniqueFd fd) {
  const auto channel = grpc::CreateInsecureChannelFromFd("authority", fd.release());
  grpc::ClientContext context;
  v1::JwtSvid answer;
  const auto status = v1::Enrolment::NewStub(channel)->SignJwt(&context, {}, &answer);
  return {status, answer.token()};
}

// A TCP connection, blocking.
policy::UniqueFd plain(const std::string &where) {
  const auto place = parse_host_port(where);
  const auto address = resolve(*place, false);
  policy::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(fd.get(), (*address)->ai_addr, (*address)->ai_addrlen) == 0);
  return fd;
}

AuthorityTrust by(const BundleSet &bundles) { return {std::nullopt, &bundles, kDomain}; }
AuthorityTrust by(const X509 *root) { return {public_key_digest(root), nullptr, ""}; }

}  // namespace

TEST_CASE("an anonymous client knows the authority by its pin, a node by the bundle") {
  Server server;
  TlsClient client;
  auto first =
      client.dial(server.where(), by(server.root.certificate.get()), nullptr, testing::now(), 10);
  REQUIRE_MESSAGE(first, first.error());
  CHECK(first->trust_domain == kDomain);
  CHECK(ask(std::move(first->fd)).token == "anonymous");

  const BundleSet bundles = testing::bundles_of({{kDomain, server.root.certificate.get()}});
  const X509Svid node = svid_of(testing::issue(server.root, kNode));
  auto second = client.dial(server.where(), by(bundles), &node, testing::now(), 10);
  REQUIRE_MESSAGE(second, second.error());
  CHECK(ask(std::move(second->fd)).token.starts_with(std::string(kNode) + " "));
}

TEST_CASE("what is not the authority is refused, and nothing is said to it") {
  Server server;
  TlsClient client;
  const Identity other = testing::make_authority(kDomain);
  const auto why = [&](const AuthorityTrust &trust) {
    const auto dialled = client.dial(server.where(), trust, nullptr, testing::now(), 10);
    REQUIRE(!dialled);
    return dialled.error();
  };
  CHECK(why(by(other.certificate.get())).find("pin") != std::string::npos);
  const BundleSet others = testing::bundles_of({{kDomain, other.certificate.get()}});
  CHECK(why(by(others)).find("not good") != std::string::npos);
  const BundleSet own = testing::bundles_of({{kDomain, server.root.certificate.get()}});
  CHECK(why({std::nullopt, &own, "another.example"}).find("not an authority") != std::string::npos);

  // A workload of the same trust domain is none either, nor one whose certificate has ended.
  REQUIRE(server.tls().use(svid_of(testing::issue(server.root, "spiffe://example.org/inlay/caX"))));
  CHECK(why(by(own)).find("not an authority") != std::string::npos);
  Knobs ended;
  ended.not_before = testing::now() - 600;
  ended.not_after = testing::now() - 60;
  REQUIRE(server.tls().use(svid_of(testing::issue(server.root, kAuthority, ended))));
  CHECK(why(by(own)).find("expired") != std::string::npos);
  // The pin is of a certificate that was sent, but which did not sign.
  REQUIRE(
      server.tls().use(svid_of(testing::issue(other, kAuthority), server.root.certificate.get())));
  CHECK(why(by(server.root.certificate.get())).find("not good") != std::string::npos);
}

TEST_CASE("a certificate that is no good is told why, and counts for nothing") {
  Server server;
  TlsClient client;
  const BundleSet bundles = testing::bundles_of({{kDomain, server.root.certificate.get()}});
  const auto told = [&](const X509Svid &node) {
    auto dialled = client.dial(server.where(), by(bundles), &node, testing::now(), 10);
    REQUIRE_MESSAGE(dialled, dialled.error());
    const Answer answer = ask(std::move(dialled->fd));
    CHECK(answer.status.error_code() == grpc::StatusCode::UNAUTHENTICATED);
    return answer.status.error_message();
  };
  Knobs ended;
  ended.not_before = testing::now() - 600;
  ended.not_after = testing::now() - 1;
  const auto has = [](const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
  };
  const std::string expired = told(svid_of(testing::issue(server.root, kNode, ended)));
  CHECK(has(expired, "expired"));
  CHECK(has(expired, std::string("; once ") + kNode));
  // Of what no authority here has signed the name is a claim, expired or not.
  const Identity other = testing::make_authority(kDomain);
  for (const std::string &strange : {told(svid_of(testing::issue(other, kNode))),
                                     told(svid_of(testing::issue(other, kNode, ended)))}) {
    CHECK(!has(strange, "; once"));
    CHECK(has(strange, std::string("; says ") + kNode));
  }
}

TEST_CASE("who comes before the server is served waits in the kernel, and is served then") {
  Server server({}, false);
  const policy::UniqueFd early = plain(server.where());
  REQUIRE(::send(early.get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL) == 18);
  // What accepted it would have closed it for what it said.
  pollfd quiet{early.get(), POLLIN, 0};
  CHECK(::poll(&quiet, 1, 50) == 0);
  server.tls().start();
  CHECK(!server.next_refusal().empty());
}

TEST_CASE("what is no TLS 1.3 with HTTP/2 is refused and written down") {
  TlsServerSettings settings;
  settings.handshake_seconds = 1;
  Server server(settings);
  {
    const policy::UniqueFd fd = plain(server.where());
    REQUIRE(::send(fd.get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL) == 18);
    char byte;
    while (::recv(fd.get(), &byte, 1, 0) > 0) {
    }
  }
  CHECK(!server.next_refusal().empty());
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    CAPTURE(version);
    const policy::UniqueFd fd = plain(server.where());
    const SslContextPtr context(SSL_CTX_new_ex(library_context(), nullptr, TLS_client_method()));
    SSL_CTX_set_max_proto_version(context.get(), version);
    const SslPtr ssl(SSL_new(context.get()));
    SSL_set_fd(ssl.get(), fd.get());
    // Of an offer without "h2", the server makes an alert or an end.
    const unsigned char http1[] = "\x08http/1.1";
    SSL_set_alpn_protos(ssl.get(), http1, 9);
    CHECK(SSL_connect(ssl.get()) != 1);
    CHECK(!server.next_refusal().empty());
  }
  const policy::UniqueFd silent = plain(server.where());
  CHECK(server.next_refusal().find("in time") != std::string::npos);
}

TEST_CASE("an address gets so many connections, and seats are given back") {
  TlsServerSettings settings;
  settings.connections_of_an_address = 2;
  Server server(settings);
  TlsClient client;
  const AuthorityTrust trust = by(server.root.certificate.get());
  {
    const policy::UniqueFd one = plain(server.where());
    const policy::UniqueFd two = plain(server.where());
    // Who says nothing at all is not written down: a balancer looks whether somebody listens.
    for (const int fd : {one.get(), two.get()}) REQUIRE(::send(fd, "x", 1, MSG_NOSIGNAL) == 1);
    const policy::UniqueFd three = plain(server.where());
    CHECK(server.next_refusal() == "too many connections");
    char byte;
    CHECK(::recv(three.get(), &byte, 1, 0) == 0);
  }
  for (int i = 0; i < 2; ++i) CHECK(!server.next_refusal().empty());  // their handshakes ended
  // A seat is free when the relay has let go of the connection, soon after it said so.
  for (;;) {
    auto dialled = client.dial(server.where(), trust, nullptr, testing::now(), 10);
    if (dialled) break;
  }
}

TEST_CASE("messages pass whole, and one beyond what any request may have ends its connection") {
  Server server;
  TlsClient client;
  const AuthorityTrust trust = by(server.root.certificate.get());
  auto dialled = client.dial(server.where(), trust, nullptr, testing::now(), 10);
  REQUIRE(dialled);
  const auto channel = grpc::CreateInsecureChannelFromFd("authority", dialled->fd.release());
  const auto stub = v1::Enrolment::NewStub(channel);
  for (const std::size_t size : {1u, 16384u, 40000u}) {
    grpc::ClientContext context;
    v1::SignJwtRequest request;
    request.set_spiffe_id(std::string(size, 'x'));
    v1::JwtSvid answer;
    CHECK(stub->SignJwt(&context, request, &answer).ok());
  }
  // More than any request may have: the police ends the connection.
  grpc::ClientContext context;
  v1::SignJwtRequest request;
  request.set_spiffe_id(std::string(1 << 20, 'x'));
  v1::JwtSvid answer;
  CHECK(!stub->SignJwt(&context, request, &answer).ok());
}
