// What a handshake refuses, and what it tells the peer when it does.
#include <doctest/doctest.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>

#include <algorithm>
#include <string>

#include "stock_peer.h"

using namespace inlay::tls;
using namespace inlay::tls::test;
using inlay::identity::VerifyError;
using inlay::testing::Knobs;

namespace {

Bytes client_hello() {
  OurEnd client(world().credentials(world().app, World::kApp), Role::client);
  client.feed({});
  return client.take();
}

OurEnd our_server() { return {world().credentials(world().redis, World::kRedis), Role::server}; }

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

TEST_CASE("T28 a plaintext client of a strict server is told from TLS by its first bytes") {
  for (const char *first : {"GET / HTTP/1.1\r\n\r\n", "PING\r\n", "*1\r\n$4\r\nPING\r\n", "\n",
                            "EHLO x\r\n", "SSH-2.0-OpenSSH_9.2\r\n"}) {
    CAPTURE(first);
    for (std::size_t piece : {1u, 100u}) {
      OurEnd server = our_server();
      const Bytes bytes = text(first);
      server.feed(std::span(bytes).first(std::min(piece, bytes.size())));
      CHECK(server.failed());
      CHECK(server.error() == HandshakeError::not_tls);
      CHECK(server.outbox.empty());
    }
  }
  for (const char *bytes :
       {"80 2e 01 03 01", "17 03 03 00 20", "14 03 03 00 01", "16 02 00 00 01", "16 0a", "00"}) {
    OurEnd server = our_server();
    server.feed(hex(bytes));
    CHECK(server.error() == HandshakeError::not_tls);
    CHECK(server.outbox.empty());
  }
}

TEST_CASE("T29 a plaintext server ends a strict client with nothing sent but its ClientHello") {
  for (const char *first : {"HTTP/1.1 400 Bad Request\r\n\r\n", "-ERR unknown command\r\n",
                            "220 mail ESMTP\r\n", "S"}) {
    OurEnd client(world().credentials(world().app, World::kApp), Role::client);
    client.feed({});
    CHECK(client.take().size() > 100);
    client.feed(text(first));
    CHECK(client.failed());
    CHECK(client.error() == HandshakeError::not_tls);
    CHECK(client.outbox.empty());
  }
}

TEST_CASE("T30 a peer of TLS 1.2 is refused in either role") {
  for (Role role : kRoles) {
    auto options = good_peer(role);
    options.context = [](SSL_CTX *context) {
      SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
    };
    Ends ends(role, options);
    converse(ends.ours, ends.peer);
    CHECK(ends.ours.failed());
    CHECK(ends.ours.error() == HandshakeError::version);
    CHECK_FALSE(ends.peer.finished());
    if (role == Role::server) CHECK(ends.peer.alert_received() == Alert::protocol_version);
  }
}

TEST_CASE("T31 a second ClientHello is a protocol violation") {
  const Bytes hello = client_hello();
  OurEnd server = our_server();
  server.feed(hello);
  REQUIRE_FALSE(server.failed());
  server.feed(hello);
  CHECK(server.failed());
  CHECK(server.error() == HandshakeError::protocol);
}

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

TEST_CASE("T37 ALPN is ours, absent, or refused") {
  struct Row {
    const char *name;
    Bytes offered;
    bool accepted, alpn;
  };
  const Row rows[] = {
      {"none", {}, true, false},
      {"ours", text("\7inlay/1"), true, true},
      {"ours among others", text("\2h2\7inlay/1\10http/1.1"), true, true},
      {"another", text("\2h2"), false, false},
      {"a longer name", text("\10inlay/12"), false, false},
      {"a shorter name", text("\6inlay/"), false, false},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    auto options = good_peer(Role::server);
    options.ssl = [&](SSL *ssl) {
      SSL_set_alpn_protos(ssl, row.offered.data(), static_cast<unsigned>(row.offered.size()));
    };
    Ends ends(Role::server, options);
    converse(ends.ours, ends.peer);
    CHECK(ends.ours.finished() == row.accepted);
    if (row.accepted) {
      CHECK(ends.ours.handshake->take_established().alpn == row.alpn);
    } else {
      CHECK(ends.ours.error() == HandshakeError::alpn);
      CHECK(ends.peer.alert_received() == Alert::no_application_protocol);
    }
  }
}

TEST_CASE("T37 our client learns that a server speaks only other protocols") {
  auto options = good_peer(Role::client);
  options.context = [](SSL_CTX *context) {
    SSL_CTX_set_alpn_select_cb(
        context,
        [](SSL *, const unsigned char **, unsigned char *, const unsigned char *, unsigned,
           void *) { return SSL_TLSEXT_ERR_ALERT_FATAL; },
        nullptr);
  };
  Ends ends(Role::client, options);
  converse(ends.ours, ends.peer);
  CHECK(ends.ours.failed());
  CHECK(ends.ours.error() == HandshakeError::alert_received);
  CHECK(ends.ours.handshake->failure().alert == Alert::no_application_protocol);
}

TEST_CASE("T38 stripping ALPN from the ClientHello on its way breaks the handshake on both sides") {
  OurEnd client(world().credentials(world().app, World::kApp), Role::client);
  client.feed({});
  Bytes hello = client.take();
  const Bytes alpn = hex("00 10 00 0a 00 08 07 69 6e 6c 61 79 2f 31");
  const auto found = std::search(hello.begin(), hello.end(), alpn.begin(), alpn.end());
  REQUIRE(found != hello.end());
  found[0] = found[1] = 0x7a;  // an extension nobody knows
  OurEnd server = our_server();
  server.feed(hello);
  converse(client, server);
  CHECK(client.failed());
  CHECK_FALSE(server.finished());
}

TEST_CASE("T39 oversize records and floods in the handshake end it") {
  const Bytes hello = client_hello();
  const auto refused = [&](const Bytes &after_hello, bool with_hello) {
    OurEnd server = our_server();
    if (with_hello) server.feed(hello);
    std::size_t fed = 0;
    while (!server.failed() && fed < 1 << 20) {
      server.feed(after_hello);
      fed += after_hello.size();
    }
    REQUIRE(server.failed());
    CHECK(fed < 200 * 1024);
    return server.error();
  };
  CHECK(refused(hex("16 03 03 41 01"), false) == HandshakeError::record_overflow);
  CHECK(refused(hex("17 03 03 41 01"), true) == HandshakeError::record_overflow);
  CHECK(refused(hex("16 03 03 00 00"), false) == HandshakeError::protocol);
  CHECK(refused(hex("14 03 03 00 01 01"), true) == HandshakeError::protocol);
  CHECK(refused(hex("15 03 03 00 02 01 5a"), true) != HandshakeError::none);
  // A ClientHello said to be 16 MB long.
  CHECK(refused(hex("16 03 01 00 04 01 ff ff ff"), false) == HandshakeError::protocol);
  Bytes crumbs = hex("16 03 01 00 01 00");
  CHECK(refused(crumbs, false) != HandshakeError::none);
  // Early data nobody asked for, without end.
  Bytes early = hex("17 03 03 40 00");
  early.resize(early.size() + 0x4000, 0x55);
  CHECK(refused(early, true) == HandshakeError::protocol);
}

TEST_CASE("T43 a side that gets its own messages played back fails") {
  OurEnd client(world().credentials(world().app, World::kApp), Role::client);
  client.feed({});
  const Bytes hello = client.take();
  client.feed(hello);
  CHECK(client.failed());
  CHECK(client.error() == HandshakeError::protocol);

  OurEnd server = our_server();
  server.feed(hello);
  const Bytes flight = server.take();
  server.feed(flight);
  CHECK(server.failed());

  OurEnd other = our_server();
  other.feed(flight);
  CHECK(other.failed());
  CHECK(other.error() == HandshakeError::protocol);
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
  for (std::size_t padding : {40000, 60000, 100000}) {
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
    CHECK(ends.ours.error() == HandshakeError::internal);
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

TEST_CASE("no group in common ends with an alert") {
  for (Role role : kRoles) {
    auto options = good_peer(role);
    options.context = [](SSL_CTX *context) { SSL_CTX_set1_groups_list(context, "P-521"); };
    Ends ends(role, options);
    converse(ends.ours, ends.peer);
    CHECK(ends.ours.failed());
    CHECK_FALSE(ends.peer.finished());
    CHECK(ends.ours.error() ==
          (role == Role::client ? HandshakeError::alert_received : HandshakeError::protocol));
  }
}

TEST_CASE("changing any byte of either flight keeps the handshake from finishing") {
  for (Role role : kRoles) {
    for (std::size_t at = 0;; at += 13) {
      Ends ends(role, good_peer(role));
      if (role == Role::client) {
        ends.ours.feed({});
        ends.peer.feed(ends.ours.take());
      } else {
        ends.peer.feed({});
        ends.ours.feed(ends.peer.take());
        ends.peer.feed(ends.ours.take());
      }
      Bytes flight = ends.peer.take();
      if (at >= flight.size()) break;
      // The second byte of a record's version means nothing (RFC 8446 §5.1), nor does a
      // change_cipher_spec.
      CAPTURE(at);
      flight[at] ^= 0x10;
      ends.ours.feed(flight);
      CHECK_FALSE(ends.ours.finished());
    }
  }
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

TEST_CASE("a peer's refusal is reported with its alert") {
  Ends ends(Role::client, good_peer(Role::client));
  ends.ours.feed({});
  ends.ours.take();
  ends.ours.feed(hex("15 03 03 00 02 02 28"));
  CHECK(ends.ours.failed());
  CHECK(ends.ours.error() == HandshakeError::alert_received);
  CHECK(ends.ours.handshake->failure().alert == Alert::handshake_failure);
  CHECK(ends.ours.handshake->failure().detail == "alert handshake_failure");
}

TEST_CASE("every handshake error has a sentence") {
  for (int i = 0; i <= static_cast<int>(HandshakeError::internal); ++i)
    CHECK(sentence(static_cast<HandshakeError>(i)) != "unknown error");
  CHECK(sentence(static_cast<HandshakeError>(200)) == "unknown error");
}
