#include "identity/agent/workload_api_source.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>

#include "api_server.h"
#include "child.h"
#include "identity/agent/upstream.h"
#include "identity/jwk.h"
#include "tests/unit/policy/temporary_folder.h"
#include "upstream_server.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;
using inlay::policy::sample::TemporaryFolder;
using inlay::testing::Identity;
using inlay::testing::issue;
using inlay::testing::make_authority;
using inlay::testing::make_key;

namespace {

constexpr const char *kDb = "spiffe://example.org/db";

std::string pkcs8_of(const EVP_PKEY *key) {
  const std::unique_ptr<PKCS8_PRIV_KEY_INFO, OpensslDelete<PKCS8_PRIV_KEY_INFO_free>> info(
      EVP_PKEY2PKCS8(key));
  std::string der(static_cast<std::size_t>(i2d_PKCS8_PRIV_KEY_INFO(info.get(), nullptr)), '\0');
  auto *position = reinterpret_cast<unsigned char *>(der.data());
  i2d_PKCS8_PRIV_KEY_INFO(info.get(), &position);
  return der;
}

const Identity &authority() {
  static const Identity made = make_authority("example.org");
  return made;
}
const Identity &foreign() {
  static const Identity made = make_authority("other.example");
  return made;
}

X509SVIDResponse svids_of(std::initializer_list<const char *> ids) {
  X509SVIDResponse response;
  for (const char *const id : ids) {
    const Identity leaf = issue(authority(), id);
    X509SVID &svid = *response.add_svids();
    svid.set_spiffe_id(id);
    svid.set_x509_svid(der_of(leaf.certificate.get()));
    svid.set_x509_svid_key(pkcs8_of(leaf.key.get()));
    svid.set_bundle(der_of(authority().certificate.get()));
  }
  return response;
}

// The upstream, this agent's source, and what may be waited for.
struct Setup {
  TemporaryFolder folder;
  std::string path = folder / "upstream.sock";
  std::unique_ptr<UpstreamServer> upstream = std::make_unique<UpstreamServer>(path);
  std::unique_ptr<Source> source;

  Source &open() {
    source = open_workload_api(
        {.socket = path, .trust_domain = "example.org", .pause = std::chrono::milliseconds(10)});
    return *source;
  }
  // Until `reached`, woken by news alone.
  void wait(const std::function<bool()> &reached) {
    while (!reached()) {
      pollfd news{source->news_fd(), POLLIN, 0};
      REQUIRE(poll(&news, 1, -1) == 1);
      source->take_news();
    }
  }
  std::string error_of(const char *id) {
    auto svid = source->obtain(id_of(id));
    return svid ? "" : svid.error().message;
  }
  void wait_for_error(const std::string &part) {
    wait([&] { return error_of(kWeb).find(part) != std::string::npos; });
  }
};

}  // namespace

TEST_CASE("a stream that is told to is opened again at once, however long it would have waited") {
  std::mutex mutex;
  std::condition_variable opened;
  int times = 0;
  const auto wait_for = [&](int count) {
    std::unique_lock lock(mutex);
    opened.wait(lock, [&] { return times >= count; });
  };
  UpstreamStream stream(std::chrono::hours(1), [&](grpc::ClientContext &) {
    const std::lock_guard lock(mutex);
    ++times;
    opened.notify_all();
    return UpstreamStream::End{};
  });
  // Whether it is being opened when it is told, or waits by then.
  for (int count = 1; count <= 100; ++count) {
    wait_for(count);
    stream.retry();
  }
  wait_for(101);
}

TEST_CASE("SVIDs, bundles, CRLs and JWT authorities come from the upstream") {
  Setup setup;
  X509SVIDResponse svids = svids_of({kWeb, kDb});
  (*svids.mutable_federated_bundles())["spiffe://other.example"] =
      der_of(foreign().certificate.get());
  setup.upstream->say({svids, {}, 0});
  const PkeyPtr key = make_key(inlay::testing::KeyKind::p256);
  const JwtAuthorities keys{{jwt_key_id(key.get()), public_key_der(key.get())}};
  JWTBundlesResponse jwt;
  (*jwt.mutable_bundles())["spiffe://example.org"] = jwk_set(keys);
  setup.upstream->say({jwt, {}, 0});
  Source &source = setup.open();
  CHECK(source.name() == "Workload API " + setup.path);
  CHECK(!source.issues());

  setup.wait([&] { return source.obtain(id_of(kWeb)).has_value(); });
  const auto web = source.obtain(id_of(kWeb));
  CHECK(web->id.uri() == kWeb);
  CHECK(der_of(web->chain[0].get()) == svids.svids(0).x509_svid());
  CHECK(pkcs8_of(web->key.get()) == svids.svids(0).x509_svid_key());
  CHECK(source.obtain(id_of(kDb)).has_value());
  CHECK(setup.error_of("spiffe://example.org/none") ==
        "the Workload API at " + setup.path +
            " has no SVID of spiffe://example.org/none for this agent, only of " + kWeb + ", " +
            kDb + "; it needs an entry for it there");

  setup.wait([&] {
    const auto trust = source.trust();
    return trust && !trust->bundles.at("example.org").jwt_authorities.empty();
  });
  const auto trust = source.trust();
  REQUIRE(trust->bundles.size() == 2);
  CHECK(trust->bundles.at("example.org").x509_authorities ==
        std::vector{der_of(authority().certificate.get())});
  CHECK(trust->bundles.at("example.org").jwt_authorities == keys);
  CHECK(trust->bundles.at("other.example").x509_authorities ==
        std::vector{der_of(foreign().certificate.get())});
  CHECK(setup.upstream->all_had_the_metadata());
}

TEST_CASE("what a message no longer has is dropped") {
  Setup setup;
  X509SVIDResponse svids = svids_of({kWeb, kDb});
  (*svids.mutable_federated_bundles())["spiffe://other.example"] =
      der_of(foreign().certificate.get());
  setup.upstream->say({svids, {}, 0});
  Source &source = setup.open();
  setup.wait([&] { return source.obtain(id_of(kDb)).has_value(); });
  CHECK(source.trust()->bundles.size() == 2);

  setup.upstream->say({svids_of({kWeb}), {}, 0});
  setup.wait([&] { return !source.obtain(id_of(kDb)).has_value(); });
  CHECK(source.obtain(id_of(kWeb)).has_value());
  CHECK(source.trust()->bundles.size() == 1);
}

TEST_CASE("the newest word on a trust domain counts, whichever stream brings it") {
  Setup setup;
  setup.upstream->say({svids_of({kWeb}), {}, 0});
  Source &source = setup.open();
  setup.wait([&] { return source.trust().has_value(); });
  const Identity next = make_authority("example.org");
  X509BundlesResponse bundles;
  (*bundles.mutable_bundles())["spiffe://example.org"] = der_of(next.certificate.get());
  setup.upstream->say({bundles, {}, 0});
  const auto first_authority = [&] {
    const auto trust = source.trust();
    return trust ? trust->bundles.at("example.org").x509_authorities.at(0) : std::string();
  };
  setup.wait([&] { return first_authority() == der_of(next.certificate.get()); });
  setup.upstream->say({svids_of({kWeb}), {}, 0});
  setup.wait([&] { return first_authority() == der_of(authority().certificate.get()); });
}

TEST_CASE("a message with anything wrong is refused whole, and says why") {
  const auto with = [](const std::function<void(X509SVIDResponse &)> &spoil) {
    X509SVIDResponse response = svids_of({kWeb, kDb});
    spoil(response);
    return response;
  };
  const Identity stranger = issue(foreign(), "spiffe://other.example/web");
  const struct {
    X509SVIDResponse message;
    std::string reason;
  } cases[] = {
      {with([](auto &m) { m.clear_svids(); }), "it has no SVID"},
      {with([](auto &m) { m.mutable_svids(1)->set_spiffe_id("spiffe://other.example/db"); }),
       "spiffe://other.example/db is of another trust domain than example.org"},
      {with([&](auto &m) {
         m.mutable_svids(1)->set_x509_svid(der_of(stranger.certificate.get()));
         m.mutable_svids(1)->set_x509_svid_key(pkcs8_of(stranger.key.get()));
       }),
       "the SVID of spiffe://example.org/db is one of spiffe://other.example/web"},
      {with([](auto &m) { m.mutable_svids(1)->set_spiffe_id("spiffe://example.org"); }),
       "the SVID of spiffe://example.org is one of spiffe://example.org/db"},
      {with([](auto &m) { m.mutable_svids(1)->set_spiffe_id("db\n"); }),
       "\"db\\x0a\" is no SPIFFE ID"},
      {with([](auto &m) { m.mutable_svids(1)->clear_spiffe_id(); }), "\"\" is no SPIFFE ID"},
      {with([](auto &m) { m.mutable_svids(1)->set_x509_svid("garbage"); }),
       "certificate 1 is not one in DER"},
      {with([](auto &m) { m.mutable_svids(1)->mutable_x509_svid()->append("x"); }),
       "certificate 2 is not one in DER"},
      {with([](auto &m) { m.mutable_svids(1)->clear_x509_svid(); }), "it holds no certificate"},
      {with([](auto &m) { m.mutable_svids(1)->set_x509_svid_key("garbage"); }),
       "the key is not a private key in PKCS#8 DER"},
      {with([](auto &m) { m.mutable_svids(1)->mutable_x509_svid_key()->append("x"); }),
       "the key is not a private key in PKCS#8 DER"},
      {with([](auto &m) { m.mutable_svids(1)->set_x509_svid_key(m.svids(0).x509_svid_key()); }),
       "the key does not belong to the certificate"},
      {with([](auto &m) { m.mutable_svids(1)->clear_bundle(); }),
       "there is no bundle with the SVID of spiffe://example.org/db"},
      {with([](auto &m) { m.mutable_svids(1)->set_bundle("garbage"); }),
       "the bundle of example.org"},
      {with([](auto &m) { (*m.mutable_federated_bundles())["other.example"] = ""; }),
       "\"other.example\" is not the SPIFFE ID of a trust domain"},
      {with([](auto &m) { (*m.mutable_federated_bundles())["spiffe://other.example/x"] = ""; }),
       "is not the SPIFFE ID of a trust domain"},
      {with(
           [](auto &m) { (*m.mutable_federated_bundles())["spiffe://other.example"] = "garbage"; }),
       "the bundle of other.example: certificate 1 is not one in DER"},
      {with([](auto &m) { m.add_crl("garbage"); }), "a CRL: "},
  };
  Setup setup;
  setup.upstream->say({svids_of({kWeb}), {}, 0});
  Source &source = setup.open();
  for (const auto &one : cases) {
    CAPTURE(one.reason);
    setup.upstream->say({svids_of({kWeb}), {}, 0});
    setup.wait([&] { return source.obtain(id_of(kWeb)).has_value(); });
    setup.upstream->say({one.message, {}, 0});
    setup.wait_for_error(one.reason);
    CHECK(setup.error_of(kWeb).find('\n') == std::string::npos);
    CHECK(setup.error_of(kWeb).starts_with("the Workload API at " + setup.path +
                                           " sent a message that is not taken: "));
    CHECK(!source.trust().has_value());
  }
}

TEST_CASE("a stream that ends, is refused or breaks is opened again") {
  for (const grpc::StatusCode code :
       {grpc::StatusCode::PERMISSION_DENIED, grpc::StatusCode::UNAVAILABLE,
        grpc::StatusCode::RESOURCE_EXHAUSTED, grpc::StatusCode::OK}) {
    Setup setup;
    setup.upstream->refuse_svids(grpc::Status(code, code == grpc::StatusCode::OK ? "" : "why"));
    Source &source = setup.open();
    setup.wait_for_error(code == grpc::StatusCode::OK ? "ended the stream" : ": why");
    setup.upstream->say({svids_of({kWeb}), {}, 0});
    setup.wait([&] { return source.obtain(id_of(kWeb)).has_value(); });
    CHECK(setup.upstream->opened() >= 2);
  }
}

TEST_CASE("what repetition does not help is not repeated") {
  for (const auto &[code, text] :
       {std::pair{grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT: why"},
        {grpc::StatusCode::UNIMPLEMENTED, "UNIMPLEMENTED: why"}}) {
    Setup setup;
    setup.upstream->refuse_svids(grpc::Status(code, "why"));
    // The bundles' stream goes on: when it has come back some times, the other one would have, too.
    setup.upstream->say({X509BundlesResponse(), {}, 0});
    Source &source = setup.open();
    setup.wait_for_error(text);
    for (int message = 0; message < 5; ++message) {
      pollfd news{source.news_fd(), POLLIN, 0};
      REQUIRE(poll(&news, 1, -1) == 1);
      source.take_news();
    }
    CHECK(setup.upstream->opened() == 1);
  }
}

TEST_CASE("an upstream that is not there yet, or restarts, is found") {
  Setup setup;
  setup.upstream.reset();
  Source &source = setup.open();
  setup.wait_for_error("cannot be reached: No such file or directory");
  for (int life = 0; life < 2; ++life) {
    setup.upstream = std::make_unique<UpstreamServer>(setup.path);
    setup.upstream->say({svids_of({kWeb}), {}, 0});
    setup.wait([&] { return source.obtain(id_of(kWeb)).has_value(); });
    setup.upstream.reset();
    setup.wait([&] { return !source.obtain(id_of(kWeb)).has_value(); });
  }
}

TEST_CASE(
    "an upstream that speaks no gRPC, resets or hangs up is no source, and its successor is "
    "found") {
  const std::string settings("\0\0\0\4\0\0\0\0\0", 9), endless("\xff\xff\xff\0\0\0\0\0\1", 9);
  for (const std::string &says :
       {std::string(), std::string("HTTP/1.1 200 OK\r\n\r\n"), std::string(64 * 1024, '\x5a'),
        settings + "garbage", settings + endless}) {
    CAPTURE(says.size());
    Setup setup;
    setup.upstream.reset();
    unlink(setup.path.c_str());
    const policy::UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    setup.path.copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
    REQUIRE(listen(listener.get(), 8) == 0);
    std::atomic<int> met = 0;
    std::thread nonsense([&] {
      for (;;) {
        const policy::UniqueFd client(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!client) return;
        ++met;
        send(client.get(), says.data(), says.size(), MSG_NOSIGNAL);
        char byte = 0;
        recv(client.get(), &byte, 1, 0);  // the rest is unread: a reset
      }
    });
    Source &source = setup.open();
    setup.wait([&] { return met >= 3; });
    CHECK(!source.obtain(id_of(kWeb)).has_value());
    CHECK(!source.trust().has_value());
    CHECK(setup.error_of(kWeb).find('\n') == std::string::npos);
    shutdown(listener.get(), SHUT_RDWR);
    nonsense.join();
    unlink(setup.path.c_str());
    setup.upstream = std::make_unique<UpstreamServer>(setup.path);
    setup.upstream->say({svids_of({kWeb}), {}, 0});
    setup.wait([&] { return source.obtain(id_of(kWeb)).has_value(); });
  }
}

TEST_CASE("a message too large is refused, and the next one taken") {
  Setup setup;
  X509SVIDResponse large = svids_of({kWeb});
  large.mutable_svids(0)->set_hint(std::string(5 << 20, 'x'));
  setup.upstream->say({large, {}, 0});
  Source &source = setup.open();
  setup.wait_for_error("RESOURCE_EXHAUSTED");
  setup.upstream->say({svids_of({kWeb}), {}, 0});
  setup.wait([&] { return source.obtain(id_of(kWeb)).has_value(); });
}

TEST_CASE("whoever listens there must be root, this user or a named owner (T67)") {
  if (getuid() != 0) return;
  TemporaryFolder folder;
  const std::string path = folder / "squatter.sock";
  chmod(path.substr(0, path.rfind('/')).c_str(), 0777);
  const Child squatter([&] {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (setgid(65534) != 0 || setuid(65534) != 0 ||
        bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 ||
        listen(fd, 8) != 0) {
      _exit(1);
    }
  });
  const auto source = open_workload_api({.socket = path, .trust_domain = "example.org"});
  const auto svid = source->obtain(id_of(kWeb));
  REQUIRE(!svid);
  CHECK(svid.error().message ==
        "the Workload API at " + path +
            " is not trusted: user 65534 listens there, neither root nor this user; name its owner "
            "with --config-owner if that is right");
}

TEST_CASE("JWT-SVIDs are passed on when they are what was asked for") {
  Setup setup;
  Source &source = setup.open();
  const PkeyPtr key = make_key(inlay::testing::KeyKind::p256);
  const auto answer = [&](const char *id, const std::vector<std::string> &audience,
                          std::time_t when) {
    JWTSVIDResponse response;
    JWTSVID &svid = *response.add_svids();
    svid.set_spiffe_id(id);
    svid.set_svid(*issue_jwt_svid(id_of(id), audience, key.get(), when, kJwtLifetime));
    setup.upstream->say({response, {}, 0});
    const auto jwt = source.obtain_jwt(id_of(kWeb), {"a", "b"});
    return jwt ? std::string() : jwt.error().message;
  };
  const std::time_t now = inlay::testing::now();
  CHECK(answer(kWeb, {"b", "a"}, now) == "");
  CHECK(source.obtain_jwt(id_of(kWeb), {"a"})->not_after == now + kJwtLifetime);
  CHECK(answer(kDb, {"a", "b"}, now).find("is not the one asked for") != std::string::npos);
  CHECK(answer(kWeb, {"a"}, now).find("is not the one asked for") != std::string::npos);
  CHECK(answer(kWeb, {"a", "b"}, now - 3600).find("has expired") != std::string::npos);

  JWTSVIDResponse garbage;
  setup.upstream->say({garbage, {}, 0});
  CHECK(source.obtain_jwt(id_of(kWeb), {"a"}).error().message.ends_with("sent no JWT-SVID"));
  garbage.add_svids()->set_svid("garbage");
  setup.upstream->say({garbage, {}, 0});
  CHECK(source.obtain_jwt(id_of(kWeb), {"a"})
            .error()
            .message.find("sent something else than a JWT-SVID") != std::string::npos);
  setup.upstream->say(UpstreamServer::Script<JWTSVIDResponse>{
      {}, grpc::Status(grpc::StatusCode::PERMISSION_DENIED, "no\nentry"), 0});
  CHECK(source.obtain_jwt(id_of(kWeb), {"a"}).error().message ==
        "the Workload API at " + setup.path + " says PERMISSION_DENIED: no\\x0aentry");
}

TEST_CASE("the environment names the endpoint as the standard has it") {
  const struct {
    const char *value;
    const char *path;
  } cases[] = {{"unix:///run/spire/agent.sock", "/run/spire/agent.sock"},
               {"unix:/run/spire/agent.sock", "/run/spire/agent.sock"},
               {"unix://run/agent.sock", nullptr},
               {"unix:run/agent.sock", nullptr},
               {"unix:////run/agent.sock", nullptr},
               {"unix:///run/agent.sock?x", nullptr},
               {"unix://", nullptr},
               {"/run/spire/agent.sock", nullptr},
               {"tcp://127.0.0.1:8000", nullptr},
               {"", nullptr}};
  for (const auto &one : cases) {
    CAPTURE(one.value);
    setenv("SPIFFE_ENDPOINT_SOCKET", one.value, 1);
    const auto path = endpoint_of_environment();
    if (one.path == nullptr) {
      CHECK(!path);
    } else {
      REQUIRE(path);
      CHECK(*path == one.path);
    }
  }
  unsetenv("SPIFFE_ENDPOINT_SOCKET");
  CHECK(!endpoint_of_environment());
}
