#include "tls/remote_key.h"

#include <doctest/doctest.h>
#include <openssl/rsa.h>

#include "identity/agent_protocol.h"
#include "stock_peer.h"

using namespace inlay::tls;
using namespace inlay::tls::test;
using inlay::testing::Identity;
using inlay::testing::KeyKind;
using inlay::testing::Knobs;

namespace {

// What the agent does: the only one who has the key.
Bytes sign(EVP_PKEY *key, const SignatureRequest &request) {
  const char *digest = request.scheme == 0x0403 || request.scheme == 0x0804   ? "SHA256"
                       : request.scheme == 0x0503 || request.scheme == 0x0805 ? "SHA384"
                                                                              : "SHA512";
  std::unique_ptr<EVP_MD_CTX, inlay::identity::OpensslDelete<EVP_MD_CTX_free>> context(
      EVP_MD_CTX_new());
  EVP_PKEY_CTX *options = nullptr;
  REQUIRE(EVP_DigestSignInit_ex(context.get(), &options, digest, inlay::identity::library_context(),
                                nullptr, key, nullptr) == 1);
  if (EVP_PKEY_is_a(key, "RSA")) {
    REQUIRE(EVP_PKEY_CTX_set_rsa_padding(options, RSA_PKCS1_PSS_PADDING) == 1);
    REQUIRE(EVP_PKEY_CTX_set_rsa_pss_saltlen(options, RSA_PSS_SALTLEN_DIGEST) == 1);
  }
  std::size_t length = 0;
  EVP_DigestSign(context.get(), nullptr, &length, request.input.data(), request.input.size());
  Bytes signature(length);
  REQUIRE(EVP_DigestSign(context.get(), signature.data(), &length, request.input.data(),
                         request.input.size()) == 1);
  signature.resize(length);
  return signature;
}

// `identity` with its private key taken away.
Identity keyless(const Identity &identity) {
  Identity without;
  without.certificate = inlay::testing::share(identity.certificate.get());
  without.key = make_remote_key(X509_get0_pubkey(identity.certificate.get()));
  REQUIRE(without.key != nullptr);
  return without;
}

const char *own_id(Role role) { return role == Role::client ? World::kApp : World::kRedis; }

struct Keyless {
  Identity identity;
  StockPeer::Options options;
  OurEnd ours;
  StockPeer peer;
  int asked = 0;

  explicit Keyless(Role role, const Knobs &knobs = {})
      : identity(inlay::testing::issue(world().authority, own_id(role), knobs)),
        options(good_peer(role)),
        ours(world().credentials(keyless(identity), own_id(role)), role),
        peer(role == Role::client ? Role::server : Role::client, options) {}

  // Until our end wants a signature, or nothing moves.
  void converse_to_signature() { converse(ours, peer); }
  bool wants_signature() const { return ours.progress == Handshake::Progress::need_signature; }
  void supply(Bytes signature, std::string why = "") {
    ++asked;
    ours.progress =
        ours.handshake->supply_signature(std::move(signature), std::move(why), ours.outbox);
  }
};

TEST_CASE("a handshake whose key is elsewhere asks for one signature and finishes with it") {
  for (Role role : kRoles) {
    for (KeyKind kind : {KeyKind::p256, KeyKind::p384, KeyKind::rsa2048}) {
      CAPTURE(role);
      CAPTURE(static_cast<int>(kind));
      Knobs knobs;
      knobs.key = kind;
      Keyless ends(role, knobs);
      ends.converse_to_signature();
      REQUIRE(ends.wants_signature());
      const SignatureRequest request = ends.ours.handshake->signature_request();
      ends.supply(sign(ends.identity.key.get(), request));
      converse(ends.ours, ends.peer);
      REQUIRE(ends.ours.finished());
      REQUIRE(ends.peer.finished());
      CHECK(ends.asked == 1);
      Session session(ends.ours.handshake->take_established(), role);
      session.feed(ends.ours.inbox);
      ends.peer.feed(session.send("question"));
      CHECK(ends.peer.read() == "question");
    }
  }
}

TEST_CASE("what is to be signed is a CertificateVerify of the own role and nothing else") {
  using namespace inlay::identity;
  for (Role role : kRoles) {
    Keyless ends(role);
    ends.converse_to_signature();
    REQUIRE(ends.wants_signature());
    const SignatureRequest &request = ends.ours.handshake->signature_request();
    const std::string input(request.input.begin(), request.input.end());
    const std::string context(role == Role::client ? kClientContext : kServerContext,
                              sizeof kClientContext);
    CHECK(request.scheme == 0x0403);
    CHECK(input.substr(0, kSignaturePadding) == std::string(kSignaturePadding, ' '));
    CHECK(input.substr(kSignaturePadding, context.size()) == context);
    const std::size_t hash = input.size() - kSignaturePadding - context.size();
    CHECK((hash == 32 || hash == 48));
  }
}

TEST_CASE("while it waits for its signature a handshake takes nothing and sends nothing") {
  for (Role role : kRoles) {
    Keyless ends(role);
    ends.converse_to_signature();
    REQUIRE(ends.wants_signature());
    CHECK(ends.ours.outbox.empty());
    std::size_t consumed = 9;
    const Bytes more(3, 0x16);
    CHECK(ends.ours.handshake->advance(more, consumed, ends.ours.outbox) ==
          Handshake::Progress::need_signature);
    CHECK(consumed == 0);
    CHECK(ends.ours.outbox.empty());
  }
}

TEST_CASE("without a signature the handshake fails with the reason given") {
  for (Role role : kRoles) {
    Keyless ends(role);
    ends.converse_to_signature();
    REQUIRE(ends.wants_signature());
    ends.supply({}, "the agent is not running");
    REQUIRE(ends.ours.failed());
    CHECK(ends.ours.error() == HandshakeError::no_signature);
    CHECK(ends.ours.handshake->failure().detail == "the agent is not running");
    converse(ends.ours, ends.peer);
    if (role == Role::server) CHECK_FALSE(ends.peer.finished());
  }
}

TEST_CASE("T36 a signature of another key, or of something else, convinces nobody") {
  for (Role role : kRoles) {
    for (bool other_key : {true, false}) {
      Keyless ends(role);
      ends.converse_to_signature();
      REQUIRE(ends.wants_signature());
      SignatureRequest request = ends.ours.handshake->signature_request();
      if (!other_key) request.input.back() ^= 1;
      const auto stranger = inlay::testing::make_key(KeyKind::p256);
      ends.supply(sign(other_key ? stranger.get() : ends.identity.key.get(), request));
      converse(ends.ours, ends.peer);
      CHECK(ends.peer.error() != "");
      const bool both = ends.ours.finished() && ends.peer.finished();
      CHECK_FALSE(both);
    }
  }
}

TEST_CASE("a signature longer than the key makes is no signature") {
  Keyless ends(Role::server);
  ends.converse_to_signature();
  REQUIRE(ends.wants_signature());
  ends.supply(Bytes(1000, 1));
  CHECK(ends.ours.failed());
}

TEST_CASE("handshakes wait for their signatures side by side and end in any order") {
  std::vector<std::unique_ptr<Keyless>> all;
  for (int i = 0; i < 20; ++i) all.push_back(std::make_unique<Keyless>(kRoles[i % 2]));
  for (auto &ends : all) ends->converse_to_signature();
  for (std::size_t i = 0; i < all.size(); ++i) {
    Keyless &ends = *all[(i * 7) % all.size()];
    REQUIRE(ends.wants_signature());
    if (i % 5 == 4) {
      ends.supply({}, "no");
      CHECK(ends.ours.error() == HandshakeError::no_signature);
      continue;
    }
    ends.supply(sign(ends.identity.key.get(), ends.ours.handshake->signature_request()));
    converse(ends.ours, ends.peer);
    CHECK(ends.ours.finished());
    CHECK(ends.peer.finished());
  }
}

TEST_CASE("a handshake given up while it waits leaves nothing behind") {
  for (int i = 0; i < 50; ++i) {  // a leak shows under ASan
    Keyless ends(kRoles[i % 2]);
    ends.converse_to_signature();
    REQUIRE(ends.wants_signature());
  }
}

TEST_CASE("a remote key is one, others are not, and it signs for nobody who is not named") {
  const Identity &app = world().app;
  const auto remote = make_remote_key(X509_get0_pubkey(app.certificate.get()));
  REQUIRE(remote != nullptr);
  CHECK(is_remote_key(remote.get()));
  CHECK_FALSE(is_remote_key(app.key.get()));
  CHECK_FALSE(is_remote_key(nullptr));
  CHECK(X509_check_private_key(app.certificate.get(), remote.get()) == 1);
  CHECK(X509_check_private_key(world().redis.certificate.get(), remote.get()) != 1);
  std::unique_ptr<EVP_MD_CTX, inlay::identity::OpensslDelete<EVP_MD_CTX_free>> context(
      EVP_MD_CTX_new());
  REQUIRE(EVP_DigestSignInit_ex(context.get(), nullptr, "SHA256",
                                inlay::identity::library_context(), nullptr, remote.get(),
                                nullptr) == 1);
  unsigned char signature[128];
  std::size_t length = sizeof signature;
  CHECK(EVP_DigestSign(context.get(), signature, &length, signature, 10) != 1);
}

TEST_CASE("keys of other kinds have no remote form") {
  CHECK(make_remote_key(inlay::testing::make_key(KeyKind::ed25519).get()) == nullptr);
}

}  // namespace
