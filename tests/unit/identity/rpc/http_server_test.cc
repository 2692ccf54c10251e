// The HTTP server over real TLS on loopback, asked by OpenSSL alone.
#include "identity/rpc/http_server.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <mutex>

#include "../certificates.h"
#include "identity/rpc/socket_address.h"
#include "policy/trusted_file.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::rpc;
using inlay::testing::Identity;

namespace {

constexpr const char *kDomain = "example.org";
constexpr const char *kGet = "GET /bundle HTTP/1.1\r\nHost: a\r\n\r\n";

class Server {
 public:
  explicit Server(HttpServerSettings settings = {}) {
    ::signal(SIGPIPE, SIG_IGN);
    settings.listen = {"127.0.0.1:0"};
    HttpServer::Host host{
        .bundles = [this] { return bundles_; },
        .now = [] { return testing::now(); },
        .answer =
            [this](const HttpRequest &request) {
              if (request.path == "/held") {
                std::unique_lock lock(mutex_);
                ++held_;
                news_.notify_all();
                news_.wait(lock, [this] { return released_; });
              }
              const std::string who = request.peer->id ? request.peer->id->uri() : "anonymous";
              return HttpAnswer{.body = request.method + " " + request.path + " " + who + " " +
                                        request.body + std::string(long_, 'x')};
            },
        .refused = [](std::string_view, std::string_view) {}};
    const Identity own = testing::issue(root, "spiffe://example.org/inlay/ca");
    auto started = HttpServer::listen(settings, std::move(host),
                                      TlsCredentials({&own.certificate, 1}, own.key.get()));
    REQUIRE_MESSAGE(started, started.error());
    server_ = std::move(*started);
  }
  policy::UniqueFd connected() const {
    const auto address = resolve(*parse_host_port(server_->addresses().at(0)), false);
    policy::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(fd.get(), (*address)->ai_addr, (*address)->ai_addrlen) == 0);
    return fd;
  }
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [this] { return held_ > 0; });
  }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    news_.notify_all();
  }

  const Identity root = testing::make_authority(kDomain);
  std::size_t long_ = 0;  // more bytes in each answer

 private:
  std::shared_ptr<const BundleSet> bundles_ =
      std::make_shared<const BundleSet>(testing::bundles_of({{kDomain, root.certificate.get()}}));
  std::mutex mutex_;
  std::condition_variable news_;
  int held_ = 0;
  bool released_ = false;
  std::unique_ptr<HttpServer> server_;
};

// A client of the wanted TLS version, which shows `own`.
class Client {
 public:
  explicit Client(const Server &server, int version = TLS1_3_VERSION, const Identity *own = nullptr,
                  const char *ciphers = nullptr)
      : fd_(server.connected()),
        context_(SSL_CTX_new_ex(library_context(), nullptr, TLS_client_method())) {
    SSL_CTX_set_max_proto_version(context_.get(), version);
    if (ciphers != nullptr) SSL_CTX_set_cipher_list(context_.get(), ciphers);
    if (own != nullptr) {
      SSL_CTX_use_certificate(context_.get(), own->certificate.get());
      SSL_CTX_use_PrivateKey(context_.get(), own->key.get());
    }
    ssl_.reset(SSL_new(context_.get()));
    SSL_set_fd(ssl_.get(), fd_.get());
    connected_ = SSL_connect(ssl_.get()) == 1;
  }
  bool connected() const { return connected_; }
  void send(std::string_view bytes) {
    REQUIRE(SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size())) ==
            static_cast<int>(bytes.size()));
  }
  // All until the server has closed.
  std::string rest() {
    std::string out;
    char buffer[4096];
    for (int got; (got = SSL_read(ssl_.get(), buffer, sizeof buffer)) > 0;) {
      out.append(buffer, static_cast<std::size_t>(got));
    }
    return out;
  }

 private:
  policy::UniqueFd fd_;
  SslContextPtr context_;
  SslPtr ssl_;
  bool connected_ = false;
};

std::string asked(Client &&client, std::string_view request) {
  REQUIRE(client.connected());
  client.send(request);
  return client.rest();
}

bool ends(const std::string &text, const std::string &end) { return text.ends_with(end); }

}  // namespace

TEST_CASE("TLS 1.3 and what is good of TLS 1.2 are answered, once for each connection") {
  Server server;
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    CAPTURE(version);
    const std::string answer = asked(Client(server, version), kGet);
    CHECK(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    CHECK(ends(answer, "\r\n\r\nGET /bundle anonymous "));
    CHECK(asked(Client(server, version), std::string(kGet) + kGet) == answer);
  }
  CHECK(!Client(server, TLS1_2_VERSION, nullptr, "ECDHE-ECDSA-AES128-SHA").connected());
  CHECK(!Client(server, TLS1_1_VERSION, nullptr, "DEFAULT:@SECLEVEL=0").connected());
  const std::string head = asked(Client(server), "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
  CHECK(ends(head, "\r\n\r\n"));
  CHECK(head.find("Content-Length: 17\r\n") != std::string::npos);
}

TEST_CASE("who showed a certificate that counts is known, in both versions of TLS") {
  HttpServerSettings settings;
  settings.ask_client = true;
  Server server(settings);
  const Identity node = testing::issue(server.root, "spiffe://example.org/inlay/node/a");
  const Identity stranger =
      testing::issue(testing::make_authority(kDomain), "spiffe://example.org/b");
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    CAPTURE(version);
    CHECK(ends(asked(Client(server, version, &node), kGet), "spiffe://example.org/inlay/node/a "));
    CHECK(ends(asked(Client(server, version, &stranger), kGet), "anonymous "));
    CHECK(ends(asked(Client(server, version), kGet), "anonymous "));
  }
}

TEST_CASE("a request in pieces, a bad one, one that is too long, and one that never ends") {
  HttpServerSettings settings;
  settings.request_seconds = 1;
  Server server(settings);
  {
    Client client(server);
    for (const char c : std::string_view(kGet)) client.send({&c, 1});
    CHECK(ends(client.rest(), "GET /bundle anonymous "));
  }
  CHECK(asked(Client(server), "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
  CHECK(asked(Client(server), std::string(17000, 'a')).starts_with("HTTP/1.1 431 "));
  const std::string body(65536, 'b');
  CHECK(ends(
      asked(Client(server), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n" + body),
      body));
  CHECK(asked(Client(server), "GET / HTTP/1.1\r\n").empty());  // closed when it has had its time
}

TEST_CASE("a long answer arrives whole; who does not read it is closed in his time") {
  HttpServerSettings settings;
  settings.request_seconds = 1;
  Server server(settings);
  server.long_ = 4 << 20;
  CHECK(asked(Client(server), kGet).size() > server.long_);
  Client lazy(server);
  lazy.send(kGet);
  Client busy(server);  // meanwhile others are served
  busy.send(kGet);
  CHECK(busy.rest().size() > server.long_);
}

TEST_CASE("a handler that takes long keeps nobody else waiting, and its client may leave") {
  Server server;
  {
    Client held(server);
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    server.wait_until_held();
    // Of those that come after it some are for the same worker: three are not.
    for (int i = 0; i < 3; ++i) CHECK(ends(asked(Client(server), kGet), "anonymous "));
  }
  server.release();
  for (int i = 0; i < 4; ++i) CHECK(ends(asked(Client(server), kGet), "anonymous "));
}
