// What of the protocol a handshake refuses, and what it tells the peer when it does.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "stock_peer.h"

using namespace inlay::tls;
using namespace inlay::tls::test;

namespace {

Bytes client_hello() {
  OurEnd client(world().credentials(world().app, World::kApp), Role::client);
  client.feed({});
  return client.take();
}

OurEnd our_server() { return {world().credentials(world().redis, World::kRedis), Role::server}; }

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
  // One byte a record, of a ClientHello of 64 KiB: all of it good so far, but without end.
  CHECK(refused(hex("16 03 01 00 01 01"), false) == HandshakeError::protocol);
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
