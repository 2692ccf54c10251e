#include "tls/handshake.h"

#include <doctest/doctest.h>

#include "stock_peer.h"

using namespace inlay::tls;
using namespace inlay::tls::test;
using inlay::testing::Knobs;

TEST_CASE("our end and stock OpenSSL shake hands and exchange data in either role") {
  for (Role role : kRoles) {
    CAPTURE(role);
    Ends ends(role, good_peer(role));
    converse(ends.ours, ends.peer);
    REQUIRE(ends.ours.finished());
    REQUIRE(ends.peer.finished());
    CHECK(ends.peer.error() == "");
    const Established established = ends.ours.handshake->take_established();
    CHECK(established.peer.uri() == (role == Role::client ? World::kRedis : World::kApp));
    CHECK(established.peer_not_after > std::time(nullptr));
    CHECK_FALSE(established.alpn);
    CHECK(established.send.sequence == 0);
    CHECK(established.receive.sequence == 0);

    Session session(established, role);
    session.feed(ends.ours.inbox);
    for (int i = 0; i < 3; ++i) {
      ends.peer.feed(session.send("question"));
      CHECK(ends.peer.read() == "question");
      session.feed(ends.peer.write("answer"));
    }
    CHECK(session.data == "answeransweranswer");
    const std::string large(50000, 'x');
    session.feed(ends.peer.write(large));
    CHECK(session.data.substr(18) == large);

    // close_notify either way (T44: the end of the data is told, not guessed).
    ends.peer.feed(session.send(Alert::close_notify));
    CHECK(ends.peer.read() == "");
    CHECK(ends.peer.closed());
    SSL_shutdown(ends.peer.ssl());
    session.feed(ends.peer.take());
    CHECK(session.alert == Alert::close_notify);
    CHECK_FALSE(session.broken);
  }
}

TEST_CASE("every suite a peer may insist on carries data") {
  for (Role role : kRoles) {
    for (const char *suite :
         {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}) {
      CAPTURE(suite);
      auto options = good_peer(role);
      options.context = [&](SSL_CTX *context) { SSL_CTX_set_ciphersuites(context, suite); };
      Ends ends(role, options);
      converse(ends.ours, ends.peer);
      REQUIRE(ends.ours.finished());
      Session session = ends.session();
      session.feed(ends.ours.inbox);
      ends.peer.feed(session.send("question"));
      CHECK(ends.peer.read() == "question");
      session.feed(ends.peer.write("answer"));
      CHECK(session.data == "answer");
    }
  }
}

TEST_CASE("AES-128-GCM is preferred where the processor has AES instructions") {
  for (Role role : kRoles) {
    Ends ends(role, good_peer(role));
    converse(ends.ours, ends.peer);
    REQUIRE(ends.ours.finished());
    // The stock server prefers by the client's order; the stock client's order begins with
    // AES-256-GCM, so this is our server's own preference.
    CHECK(ends.ours.handshake->take_established().send.suite ==
          (processor_has_aes() ? Suite::aes_128_gcm_sha256 : Suite::chacha20_poly1305_sha256));
  }
}

TEST_CASE("our client and our server agree on keys, identities and ALPN") {
  OurEnd client(world().credentials(world().app, World::kApp), Role::client);
  OurEnd server(world().credentials(world().redis, World::kRedis), Role::server);
  converse(client, server);
  REQUIRE(client.finished());
  REQUIRE(server.finished());
  CHECK(client.inbox.empty());  // no tickets
  const Established of_client = client.handshake->take_established();
  const Established of_server = server.handshake->take_established();
  CHECK(of_client.peer.uri() == World::kRedis);
  CHECK(of_server.peer.uri() == World::kApp);
  CHECK(of_client.alpn);
  CHECK(of_server.alpn);
  CHECK(of_client.send.key == of_server.receive.key);
  CHECK(of_client.receive.key == of_server.send.key);
  CHECK(of_client.send.key != of_client.receive.key);
  CHECK(of_client.send.iv == of_server.receive.iv);
}

TEST_CASE("a handshake does not depend on how the stream is cut") {
  for (Role role : kRoles) {
    for (std::size_t piece : {1u, 2u, 5u, 6u, 7u, 100u}) {
      CAPTURE(piece);
      Ends ends(role, good_peer(role));
      converse(ends.ours, ends.peer, piece);
      REQUIRE(ends.ours.finished());
      CHECK(ends.peer.finished());
    }
  }
}

TEST_CASE("an incomplete record is not taken and bytes_wanted says how much is missing") {
  OurEnd client(world().credentials(world().app, World::kApp), Role::client);
  client.feed({});
  const Bytes hello = client.take();
  OurEnd server(world().credentials(world().redis, World::kRedis), Role::server);
  for (std::size_t length = 0; length < hello.size(); ++length) {
    std::size_t consumed = 99;
    CHECK(server.handshake->advance(std::span(hello).first(length), consumed, server.outbox) ==
          Handshake::Progress::need_input);
    CHECK(consumed == 0);
    CHECK(server.handshake->bytes_wanted() == (length < kHeaderLength ? 5 : hello.size()));
    CHECK(server.outbox.empty());
  }
}

TEST_CASE("application data behind the client's Finished stays with the caller") {
  Ends ends(Role::server, good_peer(Role::server));
  ends.peer.feed({});
  ends.ours.feed(ends.peer.take());
  ends.peer.feed(ends.ours.take());
  REQUIRE(ends.peer.finished());
  Bytes flight = ends.peer.take();
  const Bytes data = ends.peer.write("early bird");
  append(flight, data);
  ends.ours.feed(flight);
  REQUIRE(ends.ours.finished());
  CHECK(ends.ours.inbox == data);
  Session session = ends.session();
  session.feed(ends.ours.inbox);
  CHECK(session.data == "early bird");
}

TEST_CASE("T33 tickets of a stock server are swallowed and not one is sent by ours") {
  Ends ends(Role::client, good_peer(Role::client));
  converse(ends.ours, ends.peer);
  REQUIRE(ends.ours.finished());
  Session session = ends.session();
  session.feed(ends.ours.inbox);
  CHECK(session.tickets_records == 2);
  CHECK_FALSE(session.post.mid_message());
  CHECK(session.data == "");
  session.feed(ends.peer.write("data"));
  CHECK(session.data == "data");

  int sessions = 0;
  auto options = good_peer(Role::server);
  options.context = [&](SSL_CTX *context) {
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT);
    SSL_CTX_set_app_data(context, &sessions);
    SSL_CTX_sess_set_new_cb(context, [](SSL *ssl, SSL_SESSION *) {
      ++*static_cast<int *>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
      return 0;
    });
  };
  Ends other(Role::server, options);
  converse(other.ours, other.peer);
  REQUIRE(other.ours.finished());
  Session server = other.session();
  other.peer.feed(server.send("x"));
  CHECK(other.peer.read() == "x");
  CHECK(sessions == 0);
}

TEST_CASE("key updates of a stock peer are followed, and answered when asked for") {
  for (Role role : kRoles) {
    for (int kind : {SSL_KEY_UPDATE_NOT_REQUESTED, SSL_KEY_UPDATE_REQUESTED}) {
      Ends ends(role, good_peer(role));
      converse(ends.ours, ends.peer);
      REQUIRE(ends.ours.finished());
      Session session = ends.session();
      session.feed(ends.ours.inbox);
      std::string expected;
      for (int i = 0; i < 5; ++i) {
        REQUIRE(SSL_key_update(ends.peer.ssl(), kind) == 1);
        session.feed(ends.peer.write("new key"));
        expected += "new key";
        CHECK(session.data == expected);
        ends.peer.feed(std::exchange(session.outbox, {}));
        ends.peer.feed(session.send("reply"));
        CHECK(ends.peer.read() == "reply");
      }
      CHECK(session.key_updates == 5);
      CHECK(session.receive_state.key_generation == 5);
      CHECK(session.send_state.key_generation == (kind == SSL_KEY_UPDATE_REQUESTED ? 5 : 0));
    }
  }
}

TEST_CASE("a stock peer follows our key updates and answers when asked") {
  for (Role role : kRoles) {
    for (bool request : {false, true}) {
      Ends ends(role, good_peer(role));
      converse(ends.ours, ends.peer);
      REQUIRE(ends.ours.finished());
      Session session = ends.session();
      session.feed(ends.ours.inbox);
      for (int i = 0; i < 3; ++i) {
        ends.peer.feed(session.send_key_update(request));
        ends.peer.feed(session.send("new key"));
        CHECK(ends.peer.read() == "new key");
        session.feed(ends.peer.write("x"));
      }
      CHECK(session.data == "xxx");
      CHECK(session.key_updates == (request ? 3 : 0));
    }
  }
}

TEST_CASE("alerts of a stock peer reach us and ours reach it") {
  for (Role role : kRoles) {
    Ends ends(role, good_peer(role));
    converse(ends.ours, ends.peer);
    REQUIRE(ends.ours.finished());
    Session session = ends.session();
    session.feed(ends.ours.inbox);
    Bytes broken = session.send("x");
    broken.back() ^= 1;
    ends.peer.feed(broken);
    CHECK(ends.peer.read() == "");
    session.feed(ends.peer.take());
    CHECK(session.alert == Alert::bad_record_mac);

    Ends others(role, good_peer(role));
    converse(others.ours, others.peer);
    REQUIRE(others.ours.finished());
    others.peer.feed(others.session().send(Alert::access_denied));
    CHECK(others.peer.read() == "");
    CHECK(others.peer.alert_received() == Alert::access_denied);
  }
}

TEST_CASE("the ClientHello has no SNI, no ticket, no PSK and no early data") {
  struct Seen {
    bool sni, ticket, psk, early_data, alpn, called;
  } seen{};
  auto options = good_peer(Role::client);
  options.context = [&](SSL_CTX *context) {
    SSL_CTX_set_client_hello_cb(
        context,
        [](SSL *ssl, int *, void *arg) {
          const auto has = [&](unsigned type) {
            const unsigned char *data;
            std::size_t length;
            return SSL_client_hello_get0_ext(ssl, type, &data, &length) == 1;
          };
          *static_cast<Seen *>(arg) = {has(0), has(35), has(41), has(42), has(16), true};
          return SSL_CLIENT_HELLO_SUCCESS;
        },
        &seen);
  };
  Ends ends(Role::client, options);
  converse(ends.ours, ends.peer);
  REQUIRE(ends.ours.finished());
  CHECK(seen.called);
  CHECK_FALSE(seen.sni);
  CHECK_FALSE(seen.ticket);
  CHECK_FALSE(seen.psk);
  CHECK_FALSE(seen.early_data);
  CHECK(seen.alpn);
}

TEST_CASE("a HelloRetryRequest is followed in either role") {
  for (Role role : kRoles) {
    auto options = good_peer(role);
    // As a client it sends a share for P-384 only, as a server it takes P-256 only.
    const char *groups = role == Role::client ? "P-256" : "P-384:P-256";
    options.context = [&](SSL_CTX *context) { SSL_CTX_set1_groups_list(context, groups); };
    Ends ends(role, options);
    converse(ends.ours, ends.peer);
    REQUIRE(ends.ours.finished());
    Session session = ends.session();
    ends.peer.feed(session.send("x"));
    CHECK(ends.peer.read() == "x");
  }
}

TEST_CASE("chains with an intermediate and keys of each allowed kind work") {
  const auto intermediate =
      inlay::testing::make_intermediate(world().authority, "example.org", Knobs{});
  for (auto kind : {inlay::testing::KeyKind::p256, inlay::testing::KeyKind::p384,
                    inlay::testing::KeyKind::rsa2048}) {
    Knobs knobs;
    knobs.key = kind;
    const auto app = inlay::testing::issue(intermediate, World::kApp, knobs);
    const auto redis = inlay::testing::issue(intermediate, World::kRedis, knobs);
    OurEnd client(world().credentials(app, World::kApp), Role::client);
    OurEnd server(world().credentials(redis, World::kRedis), Role::server);
    converse(client, server);
    CHECK(client.finished());
    CHECK(server.finished());
  }
}

TEST_CASE("T32 0-RTT offered by a client is ignored and the handshake goes on") {
  // A stock server hands out a ticket good for early data.
  const auto early = [](SSL_CTX *context) { SSL_CTX_set_max_early_data(context, 1000); };
  SSL_SESSION *ticket = nullptr;
  {
    StockPeer server(Role::server, {&world().redis, early, {}});
    StockPeer client(Role::client, {&world().app, {}, {}});
    client.feed({});
    for (int i = 0; i < 4; ++i) {
      server.feed(client.take());
      client.feed(server.take());
    }
    REQUIRE(client.finished());
    client.read();
    SSL_shutdown(client.ssl());  // else its session may not be resumed
    ticket = SSL_get1_session(client.ssl());
    REQUIRE(SSL_SESSION_get_max_early_data(ticket) == 1000);
  }
  auto options = good_peer(Role::server);
  options.ssl = [&](SSL *ssl) { SSL_set_session(ssl, ticket); };
  Ends ends(Role::server, options);
  std::size_t written = 0;
  REQUIRE(SSL_write_early_data(ends.peer.ssl(), "too early", 9, &written) == 1);
  converse(ends.ours, ends.peer);
  REQUIRE(ends.ours.finished());
  REQUIRE(ends.peer.finished());
  CHECK(SSL_get_early_data_status(ends.peer.ssl()) == SSL_EARLY_DATA_REJECTED);
  CHECK(SSL_session_reused(ends.peer.ssl()) == 0);
  Session session = ends.session();
  session.feed(ends.ours.inbox);
  session.feed(ends.peer.write("in time"));
  CHECK(session.data == "in time");
  SSL_SESSION_free(ticket);
}
