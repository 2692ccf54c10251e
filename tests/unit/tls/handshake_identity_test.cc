// Whom a handshake refuses, and what it tells the peer when it does.
#include <doctest/doctest.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>

#include <string>

#include "stock_peer.h"

using namespace inlay::tls;
using namespace inlay::tls::test;
using inlay::identity::VerifyError;
using inlay::testing::Knobs;

namespace {

// The public half of `shown` with the private half of `used`: passes every check but a signature's.
inlay::identity::PkeyPtr mixed_key(const EVP_PKEY *shown, const EVP_PKEY *used) {
  Bytes point(200);
  std::size_t length = 0;
  REQUIRE(EVP_PKEY_get_octet_string_param(shown, OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                          point.size(), &length) == 1);
  BIGNUM *number = nullptr;
  REQUIRE(EVP_PKEY_get_bn_param(used, OSSL_PKEY_PARAM_PRIV_KEY, &number) == 1);
  OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
  OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0);
  OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point.data(), length);
  OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_PRIV_KEY, number);
  OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(builder);
  EVP_PKEY_CTX *context =
      EVP_PKEY_CTX_new_from_name(inlay::identity::library_context(), "EC", nullptr);
  EVP_PKEY *key = nullptr;
  REQUIRE(EVP_PKEY_fromdata_init(context) == 1);
  REQUIRE(EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, params) == 1);
  EVP_PKEY_CTX_free(context);
  OSSL_PARAM_free(params);
  OSSL_PARAM_BLD_free(builder);
  BN_clear_free(number);
  return inlay::identity::PkeyPtr(key);
}

bool is_encrypted_alert(const Bytes &bytes) {
  return bytes.size() == 2 + kRecordOverhead && bytes[0] == 23;
}

}  // namespace

TEST_CASE("T35 a client without a certificate is refused with certificate_required") {
  Ends ends(Role::server, {});
  converse(ends.ours, ends.peer);
  CHECK(ends.ours.failed());
  CHECK(ends.ours.error() == HandshakeError::no_certificate);
  ends.peer.read();
  CHECK(ends.peer.alert_received() == Alert::certificate_required);
}

TEST_CASE("T36 the right certificate with the wrong key is refused before anyone judges it") {
  for (Role role : kRoles) {
    const auto &real = role == Role::client ? world().redis : world().app;
    inlay::testing::Identity thief;
    thief.certificate = inlay::testing::share(real.certificate.get());
    thief.key =
        mixed_key(real.key.get(), inlay::testing::make_key(inlay::testing::KeyKind::p256).get());
    int judged = 0;
    Ends ends(role, {&thief, {}, {}}, [&](const auto &) { return ++judged != 0; });
    converse(ends.ours, ends.peer);
    CHECK(ends.ours.failed());
    CHECK(ends.ours.error() == HandshakeError::key_proof);
    CHECK(judged == 0);
    ends.peer.read();
    CHECK(ends.peer.alert_received() == Alert::decrypt_error);
  }
}

TEST_CASE("T47 an unknown authority is refused with one alert that tells nothing but its code") {
  const auto unknown = inlay::testing::issue(world().stranger, World::kRedis);
  {
    Ends ends(Role::client, {&unknown, {}, {}});
    ends.ours.feed({});
    ends.peer.feed(ends.ours.take());
    ends.ours.feed(ends.peer.take());
    CHECK(ends.ours.failed());
    CHECK(ends.ours.error() == HandshakeError::certificate);
    CHECK(ends.ours.handshake->failure().verify->error == VerifyError::untrusted);
    const Bytes last = ends.ours.take();
    // In the clear: OpenSSL has no client keys before the server's flight is accepted.
    CHECK(last == hex("15 03 03 00 02 02 30"));
    ends.peer.feed(last);
    CHECK(ends.peer.alert_received() == Alert::unknown_ca);
    CHECK(inlay::identity::X509Ptr(SSL_get1_peer_certificate(ends.peer.ssl())) == nullptr);
  }
  Ends ends(Role::server, {&unknown, {}, {}});
  ends.peer.feed({});
  ends.ours.feed(ends.peer.take());
  ends.peer.feed(ends.ours.take());
  ends.ours.feed(ends.peer.take());
  CHECK(ends.ours.error() == HandshakeError::certificate);
  const Bytes last = ends.ours.take();
  CHECK(is_encrypted_alert(last));
  ends.peer.feed(last);
  ends.peer.read();
  CHECK(ends.peer.alert_received() == Alert::unknown_ca);
}

TEST_CASE("certificates are refused with the alert that fits, in either role") {
  const auto &good = world().authority;
  const auto with = [](auto change) {
    Knobs knobs;
    change(knobs);
    return knobs;
  };
  struct Row {
    const char *name;
    const inlay::testing::Identity *issuer;
    Knobs knobs;
    VerifyError error;
    Alert alert;
  };
  const auto now = inlay::testing::now();
  const Row rows[] = {
      {"T9 expired", &good,
       with([&](Knobs &k) { k.not_before = now - 20, k.not_after = now - 10; }),
       VerifyError::expired, Alert::certificate_expired},
      {"T10 not yet valid", &good, with([&](Knobs &k) { k.not_before = now + 3000; }),
       VerifyError::not_yet_valid, Alert::bad_certificate},
      {"T1 two SPIFFE IDs", &good, with([](Knobs &k) {
         k.uris = {World::kApp, World::kRedis};
       }),
       VerifyError::several_uri_sans, Alert::unsupported_certificate},
      {"T2 none", &good, with([](Knobs &k) { k.uris = std::vector<std::string>{}; }),
       VerifyError::no_uri_san, Alert::unsupported_certificate},
      {"another authority of the same name", &world().stranger, Knobs{}, VerifyError::untrusted,
       Alert::unknown_ca},
      {"unknown trust domain", &good,
       with([](Knobs &k) { k.uris = {"spiffe://elsewhere.org/app"}; }),
       VerifyError::unknown_trust_domain, Alert::unknown_ca},
  };
  for (Role role : kRoles) {
    for (const Row &row : rows) {
      CAPTURE(row.name);
      const auto identity = inlay::testing::issue(*row.issuer, World::kApp, row.knobs);
      int judged = 0;
      Ends ends(role, {&identity, {}, {}}, [&](const auto &) { return ++judged != 0; });
      converse(ends.ours, ends.peer);
      REQUIRE(ends.ours.failed());
      CHECK(ends.ours.error() == HandshakeError::certificate);
      REQUIRE(ends.ours.handshake->failure().verify);
      CHECK(ends.ours.handshake->failure().verify->error == row.error);
      CHECK(judged == 0);
      ends.peer.read();
      CHECK(ends.peer.alert_received() == row.alert);
    }
  }
}

TEST_CASE("T16 a chain longer than a handshake may carry is refused as too long") {
  for (std::size_t padding : {40000u, 60000u, 100000u}) {
    CAPTURE(padding);
    Knobs knobs;
    knobs.padding = padding;
    const auto fat = inlay::testing::make_intermediate(world().authority, "example.org", knobs);
    const auto identity = inlay::testing::issue(fat, World::kApp);
    for (Role role : kRoles) {
      Ends ends(role, {&identity, {}, {}});
      SSL_CTX_set_max_cert_list(ends.peer.context(), 1 << 20);
      converse(ends.ours, ends.peer);
      REQUIRE(ends.ours.failed());
      CHECK(ends.ours.error() == HandshakeError::certificate);
      CHECK(ends.ours.handshake->failure().verify->error == VerifyError::chain_too_long);
    }
  }
}

TEST_CASE("a client judges after the server's key is proved and before it shows its certificate") {
  std::string asked;
  Ends ends(Role::client, good_peer(Role::client), [&](const auto &peer) {
    asked += peer.uri();
    return false;
  });
  ends.ours.feed({});
  ends.peer.feed(ends.ours.take());
  ends.ours.feed(ends.peer.take());
  CHECK(asked == World::kRedis);
  CHECK(ends.ours.failed());
  CHECK(ends.ours.error() == HandshakeError::not_authorised);
  const Bytes last = ends.ours.take();
  CHECK(is_encrypted_alert(last));
  ends.peer.feed(last);
  CHECK(ends.peer.alert_received() == Alert::access_denied);
  CHECK(inlay::identity::X509Ptr(SSL_get1_peer_certificate(ends.peer.ssl())) == nullptr);
}

TEST_CASE("a server's judgement reaches a stock client and ours as access_denied") {
  std::string asked;
  const auto refuse = [&](const inlay::identity::SpiffeId &peer) {
    asked += peer.uri();
    return false;
  };
  Ends ends(Role::server, good_peer(Role::server), refuse);
  converse(ends.ours, ends.peer);
  CHECK(asked == World::kApp);
  CHECK(ends.ours.failed());
  CHECK(ends.ours.error() == HandshakeError::not_authorised);
  CHECK(ends.ours.handshake->failure().detail == World::kApp);
  CHECK(ends.peer.read() == "");
  CHECK(ends.peer.alert_received() == Alert::access_denied);

  OurEnd client(world().credentials(world().app, World::kApp), Role::client);
  OurEnd server(world().credentials(world().redis, World::kRedis), Role::server, refuse);
  converse(client, server);
  CHECK(server.failed());
  REQUIRE(client.finished());
  Session session(client.handshake->take_established(), Role::client);
  session.feed(client.inbox);
  CHECK(session.alert == Alert::access_denied);
}

TEST_CASE("a judge that allows is asked once") {
  for (Role role : kRoles) {
    int judged = 0;
    Ends ends(role, good_peer(role), [&](const auto &) { return ++judged == 1; });
    converse(ends.ours, ends.peer, 1);
    CHECK(ends.ours.finished());
    CHECK(judged == 1);
  }
}

TEST_CASE("a judge or verification that throws fails the handshake, not the process") {
  for (Role role : kRoles) {
    Ends ends(role, good_peer(role), [](const auto &) -> bool { throw std::bad_alloc(); });
    converse(ends.ours, ends.peer);
    CHECK(ends.ours.failed());
    CHECK(ends.ours.error() == HandshakeError::out_of_memory);
  }
}

TEST_CASE("a server that does not ask for the client's certificate is no peer of ours") {
  auto options = good_peer(Role::client);
  options.context = [](SSL_CTX *context) { SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nullptr); };
  Ends ends(Role::client, options);
  converse(ends.ours, ends.peer);
  CHECK(ends.ours.failed());
  CHECK(ends.ours.error() == HandshakeError::protocol);
  ends.peer.read();
  CHECK(ends.peer.alert_received() == Alert::handshake_failure);
}

TEST_CASE("an SVID of our own that has expired fails at once and sends nothing") {
  inlay::identity::X509Svid svid{
      *inlay::identity::SpiffeId::parse(World::kApp), {}, nullptr, 0, std::time(nullptr) - 1};
  svid.chain.push_back(inlay::testing::share(world().app.certificate.get()));
  EVP_PKEY_up_ref(world().app.key.get());
  svid.key.reset(world().app.key.get());
  const auto credentials = Credentials::make(std::make_shared<const inlay::identity::Material>(
      inlay::identity::Material{std::move(svid), world().bundles(), 1}));
  REQUIRE(credentials);
  for (Role role : kRoles) {
    OurEnd ours(*credentials, role);
    ours.feed({});
    CHECK(ours.failed());
    CHECK(ours.error() == HandshakeError::own_svid_expired);
    CHECK(ours.handshake->failure().detail == World::kApp);
    CHECK(ours.outbox.empty());
  }
}

TEST_CASE("credentials with a key that is not the certificate's are refused with a line") {
  inlay::testing::Identity mixed;
  mixed.certificate = inlay::testing::share(world().app.certificate.get());
  mixed.key = inlay::testing::make_key(inlay::testing::KeyKind::p256);
  const auto made =
      Credentials::make(inlay::testing::make_material(mixed, World::kApp, world().bundles()));
  REQUIRE_FALSE(made);
  CHECK(made.error().find('\n') == std::string::npos);
  CHECK(made.error().find("key") != std::string::npos);
  CHECK_FALSE(Credentials::make(nullptr));
  CHECK(Handshake::start(nullptr, Role::client, {}) == nullptr);
}
