// Both ends have sent a ClientHello (RFC 9293 §3.5).
#include "tls/simultaneous.h"

#include <doctest/doctest.h>

#include <string>

#include "stock_peer.h"

using namespace inlay::tls;
using namespace inlay::tls::test;

namespace {

struct Opener : OurEnd {
  Opener(const inlay::testing::Identity &identity, const char *id, Handshake::Judge judge = {},
         OtherClient other = OtherClient::met)
      : OurEnd({}, Role::client) {
    handshake =
        Handshake::start(world().credentials(identity, id), Role::client, std::move(judge), other);
    feed({});
  }
};
Opener app(Handshake::Judge judge = {}, OtherClient other = OtherClient::met) {
  return {world().app, World::kApp, std::move(judge), other};
}
Opener redis(Handshake::Judge judge = {}, OtherClient other = OtherClient::met) {
  return {world().redis, World::kRedis, std::move(judge), other};
}

constexpr std::size_t kRandomAt = kHeaderLength + 4 + 2;

}  // namespace

TEST_CASE("two clients that meet become one client and one server, whichever they are") {
  bool was_server[2] = {};
  // The randoms decide: soon each has been either.
  for (int i = 0; i < 200 && !(was_server[0] && was_server[1]); ++i) {
    for (std::size_t piece : {std::size_t{7}, SIZE_MAX}) {
      Opener one = app(), two = redis();
      converse(one, two, piece);
      REQUIRE(one.finished());
      REQUIRE(two.finished());
      CHECK(one.handshake->met_client());
      CHECK(two.handshake->met_client());
      const Established of_one = one.handshake->take_established();
      const Established of_two = two.handshake->take_established();
      CHECK(of_one.role != of_two.role);
      was_server[of_one.role == Role::server] = true;
      CHECK(of_one.peer.uri() == World::kRedis);
      CHECK(of_two.peer.uri() == World::kApp);
      CHECK(of_one.send.key == of_two.receive.key);
      CHECK(of_one.receive.key == of_two.send.key);
      CHECK(of_one.send.key != of_one.receive.key);
    }
  }
  CHECK((was_server[0] && was_server[1]));
}

TEST_CASE("what two clients go on with is the handshake of the larger random's ClientHello") {
  Opener one = app(), two = redis();
  const Bytes first = one.take(), second = two.take();
  const bool one_stays = meet(first, second) == Meeting::as_client;
  CHECK(meet(second, first) == (one_stays ? Meeting::as_server : Meeting::as_client));
  Opener &client = one_stays ? one : two;
  client.feed(one_stays ? second : first);
  CHECK(client.outbox.empty());
  // An ordinary server that never saw the other ClientHello finishes it.
  OurEnd server(world().credentials(one_stays ? world().redis : world().app,
                                    one_stays ? World::kRedis : World::kApp),
                Role::server);
  server.feed(one_stays ? first : second);
  converse(client, server);
  CHECK(client.finished());
  CHECK(server.finished());
}

TEST_CASE("either of two clients that meet may refuse the other") {
  for (int refuses = 0; refuses < 2; ++refuses) {
    for (int i = 0; i < 20; ++i) {
      const auto no = [](const inlay::identity::SpiffeId &) { return false; };
      Opener one = refuses == 0 ? app(no) : app(), two = refuses == 1 ? redis(no) : redis();
      converse(one, two);
      OurEnd &who = refuses == 0 ? one : two;
      CHECK(who.failed());
      CHECK(who.error() == HandshakeError::not_authorised);
    }
  }
}

TEST_CASE("a client that is to meet none refuses a ClientHello") {
  Opener one = app({}, OtherClient::refused), two = redis();
  one.feed(two.take());
  CHECK(one.failed());
  CHECK(one.error() == HandshakeError::protocol);
  CHECK_FALSE(one.handshake->met_client());
}

TEST_CASE("a second ClientHello is a violation, and so is one that is not a whole record") {
  for (int i = 0; i < 20; ++i) {
    Opener one = app();
    const Bytes own = one.take();
    Opener two = redis();
    const Bytes hello = two.take();
    one.feed(hello);
    REQUIRE_FALSE(one.failed());
    one.feed(hello);
    CHECK(one.failed());
  }
  Opener one = app(), two = redis();
  Bytes hello = two.take();
  Bytes piece = hex("16 03 01 00 40");
  piece.insert(piece.end(), hello.begin() + 5, hello.begin() + 5 + 0x40);
  one.feed(piece);
  CHECK_FALSE(one.handshake->met_client());
}

TEST_CASE("T43 its own ClientHello is no other client's, changed or not") {
  for (bool changed : {false, true}) {
    Opener one = app();
    Bytes hello = one.take();
    if (changed) hello.back() ^= 1;
    one.feed(hello);
    CHECK(one.failed());
    CHECK(one.error() == HandshakeError::protocol);
    CHECK(one.handshake->failure().detail == "the peer sends our own ClientHello back");
    CHECK(one.outbox.empty());
  }
}

TEST_CASE("T43 nor does a changed random make a reflection anybody") {
  for (int change : {0, 0xff}) {
    Opener one = app();
    Bytes hello = one.take();
    hello[kRandomAt] = static_cast<std::uint8_t>(change);
    for (int i = 0; i < 10 && one.progress == Handshake::Progress::need_input; ++i) {
      one.feed(hello);
      hello = one.take();
      if (hello.empty()) break;
    }
    CHECK_FALSE(one.finished());
  }
}

TEST_CASE("a socket connected to itself gets what it sent and nothing else") {
  std::string judged;
  const auto judge = [&](const inlay::identity::SpiffeId &peer) {
    judged = peer.uri();
    return true;
  };
  Opener one = app(judge, OtherClient::itself);
  one.feed(one.take());
  REQUIRE(one.finished());
  CHECK(one.outbox.empty());
  CHECK(one.handshake->met_client());
  CHECK(judged == World::kApp);
  const Established itself = one.handshake->take_established();
  CHECK(itself.peer.uri() == World::kApp);
  CHECK(itself.peer_not_after > std::time(nullptr));
  Session session(itself, Role::client);
  session.feed(session.send("to myself"));
  session.feed(session.send(", again"));
  CHECK(session.data == "to myself, again");
  Bytes twice = session.send("once");
  session.feed(twice);
  session.feed(twice);
  CHECK(session.broken == RecordError::bad_mac);

  Opener another = app({}, OtherClient::itself);
  another.feed(another.take());
  CHECK(another.handshake->take_established().send.key != itself.send.key);
}

TEST_CASE("a socket connected to itself is judged, and takes no other ClientHello") {
  Opener refused =
      app([](const inlay::identity::SpiffeId &) { return false; }, OtherClient::itself);
  refused.feed(refused.take());
  CHECK(refused.error() == HandshakeError::not_authorised);

  for (std::size_t changed : {kRandomAt, std::size_t{0}}) {
    Opener one = app({}, OtherClient::itself), two = redis();
    Bytes hello = changed == 0 ? two.take() : one.take();
    if (changed != 0) hello[changed] ^= 1;
    one.feed(hello);
    CHECK(one.error() == HandshakeError::protocol);
  }

  OurEnd distrusted({}, Role::client);
  distrusted.handshake = Handshake::start(
      world().credentials(inlay::testing::issue(world().stranger, World::kApp), World::kApp),
      Role::client, {}, OtherClient::itself);
  distrusted.feed({});
  distrusted.feed(distrusted.take());
  CHECK(distrusted.error() == HandshakeError::certificate);
}
