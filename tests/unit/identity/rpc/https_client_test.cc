// HTTPS requests against a real server on loopback that answers what it likes.
#include "identity/rpc/https_client.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>

#include "../certificates.h"
#include "identity/rpc/http_server.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::rpc;
using inlay::testing::Identity;
using inlay::testing::Knobs;

namespace {

constexpr const char *kDomain = "example.org";
constexpr const char *kAuthority = "spiffe://example.org/inlay/ca";

class Server {
 public:
  explicit Server(const std::string &dns_name = "localhost", const Knobs &given = {}) {
    ::signal(SIGPIPE, SIG_IGN);
    Knobs knobs = given;
    knobs.dns_names = {dns_name};
    const Identity own = testing::issue(root, kAuthority, knobs);
    HttpServer::Host host{
        .bundles = [this] { return std::make_shared<const BundleSet>(bundles()); },
        .now = [] { return testing::now(); },
        .answer = [this](const HttpRequest &request) { return answer(request); },
        .refused = [](std::string_view, std::string_view) {}};
    auto started = HttpServer::listen({.listen = {"127.0.0.1:0"}, .ask_client = true},
                                      std::move(host), {{&own.certificate, 1}, own.key.get()});
    REQUIRE_MESSAGE(started, started.error());
    server_ = std::move(*started);
  }
  ~Server() { release(); }
  std::string url(const std::string &path) const {
    const std::string address = server_->addresses().at(0);
    return "https://localhost" + address.substr(address.rfind(':')) + path;
  }
  BundleSet bundles() const { return testing::bundles_of({{kDomain, root.certificate.get()}}); }
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [this] { return held_; });
  }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    news_.notify_all();
  }

  const Identity root = testing::make_authority(kDomain);

 private:
  HttpAnswer answer(const HttpRequest &request) {
    if (request.path == "/redirect") {
      return {.status = 302, .body = "", .headers = {{"Location", "https://elsewhere.test/x"}}};
    }
    if (request.path == "/long") return {.body = std::string(5000, 'x')};
    if (request.path == "/header")
      return {.body = "", .headers = {{"X", std::string(80'000, 'x')}}};
    if (request.path == "/held") {
      std::unique_lock lock(mutex_);
      held_ = true;
      news_.notify_all();
      news_.wait(lock, [this] { return released_; });
    }
    return {.status = request.path == "/absent" ? 404 : 200,
            .type = "text/test",
            .body = request.method + "|" + request.content_type + "|" + request.authorization +
                    "|" + request.body + "|" + (request.peer->id ? request.peer->id->uri() : "")};
  }
  std::mutex mutex_;
  std::condition_variable news_;
  bool held_ = false, released_ = false;
  std::unique_ptr<HttpServer> server_;
};

std::string refusal(const HttpsRequest &request, const HttpsTrust &trust) {
  const auto answer = ask_https(request, trust, testing::now());
  REQUIRE(!answer);
  CHECK(answer.error().starts_with(request.url + ": "));
  CHECK(answer.error().find('\n') == std::string::npos);
  return answer.error();
}

bool has(const std::string &text, const std::string &part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a server is known by its SPIFFE ID, or by its host name, and by nothing else") {
  const Server server;
  const BundleSet bundles = server.bundles();
  const HttpsRequest request{.url = server.url("/")};
  const auto spiffe = ask_https(request, {kAuthority, &bundles, {}}, testing::now());
  REQUIRE_MESSAGE(spiffe, spiffe.error());
  CHECK(spiffe->status == 200);
  CHECK(spiffe->type == "text/test");
  CHECK(spiffe->body == "GET||||");
  CHECK(has(refusal(request, {"spiffe://example.org/inlay/cb", &bundles, {}}), "is spiffe://"));
  const Identity other = testing::make_authority(kDomain);
  const BundleSet others = testing::bundles_of({{kDomain, other.certificate.get()}});
  CHECK(has(refusal(request, {kAuthority, &others, {}}), "not good"));
  const BundleSet none;
  CHECK(has(refusal(request, {kAuthority, &none, {}}), "not good"));

  const auto web = ask_https(request, {"", nullptr, {&server.root.certificate, 1}}, testing::now());
  REQUIRE_MESSAGE(web, web.error());
  refusal(request, {"", nullptr, {&other.certificate, 1}});
  refusal(request, {});  // the system knows it not
  const Server elsewhere("elsewhere.test");
  refusal({.url = elsewhere.url("/")}, {"", nullptr, {&elsewhere.root.certificate, 1}});
  Knobs ended;
  ended.not_before = testing::now() - 600;
  ended.not_after = testing::now() - 60;
  const Server late("localhost", ended);
  const BundleSet of_late = late.bundles();
  CHECK(has(refusal({.url = late.url("/")}, {kAuthority, &of_late, {}}), "expired"));
  refusal({.url = late.url("/")}, {"", nullptr, {&late.root.certificate, 1}});
}

TEST_CASE("what a request carries arrives: a body, a password, a certificate") {
  const Server server;
  const HttpsTrust trust{"", nullptr, {&server.root.certificate, 1}};
  const auto posted = ask_https({.url = server.url("/"),
                                 .content_type = "application/pkcs10",
                                 .body = "abc",
                                 .user = "web-1",
                                 .password = "pa:ss"},
                                trust, testing::now());
  REQUIRE_MESSAGE(posted, posted.error());
  CHECK(posted->body == "POST|application/pkcs10|Basic d2ViLTE6cGE6c3M=|abc|");
  const Identity node = testing::issue(server.root, "spiffe://example.org/inlay/node/a");
  const auto known = ask_https(
      {.url = server.url("/"), .own = TlsCredentials({&node.certificate, 1}, node.key.get())},
      trust, testing::now());
  REQUIRE_MESSAGE(known, known.error());
  CHECK(known->body == "GET||||spiffe://example.org/inlay/node/a");
  CHECK(ask_https({.url = server.url("/absent")}, trust, testing::now())->status == 404);
}

TEST_CASE("redirects, answers without end and servers without haste are refused in one line") {
  Server server;
  const HttpsTrust trust{"", nullptr, {&server.root.certificate, 1}};
  CHECK(has(refusal({.url = server.url("/redirect")}, trust), "https://elsewhere.test/x"));
  CHECK(has(refusal({.url = server.url("/long"), .most = 4999}, trust), "longer than 4999"));
  CHECK(ask_https({.url = server.url("/long"), .most = 5000}, trust, testing::now()));
  refusal({.url = server.url("/header")}, trust);
  refusal({.url = server.url("/held"), .seconds = 1}, trust);
  refusal({.url = "http://localhost:1/"}, trust);
  refusal({.url = "file:///etc/passwd"}, trust);
  refusal({.url = "https://localhost:1/"}, trust);
}

TEST_CASE("who ends does not wait for an answer") {
  Server server;
  std::atomic<bool> ending = false;
  std::string told;
  std::jthread asker([&] {
    const auto answer = ask_https({.url = server.url("/held"), .seconds = 3600, .ending = &ending},
                                  {"", nullptr, {&server.root.certificate, 1}}, testing::now());
    if (!answer) told = answer.error();
  });
  server.wait_until_held();
  ending = true;
  asker.join();
  CHECK(!told.empty());
}

TEST_CASE("the environment's proxy is not asked") {
  const Server server;
  for (const char *name : {"https_proxy", "HTTPS_PROXY", "ALL_PROXY"}) {
    ::setenv(name, "http://localhost:1", 1);
  }
  CHECK(ask_https({.url = server.url("/")}, {"", nullptr, {&server.root.certificate, 1}},
                  testing::now()));
  for (const char *name : {"https_proxy", "HTTPS_PROXY", "ALL_PROXY"}) ::unsetenv(name);
}
