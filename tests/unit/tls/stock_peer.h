// The other end of a connection: OpenSSL as a program would use it, over memory. And our end, with
// what a session does after its handshake.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bytes.h"
#include "certificates.h"
#include "identity/openssl.h"
#include "tls/handshake.h"
#include "tls/post_handshake.h"
#include "tls/record.h"

namespace inlay::tls::test {

// Two authorities with a workload each, made once.
struct World {
  testing::Identity authority = testing::make_authority("example.org");
  testing::Identity stranger = testing::make_authority("example.org");
  testing::Identity app = testing::issue(authority, kApp);
  testing::Identity redis = testing::issue(authority, kRedis);

  static constexpr const char *kApp = "spiffe://example.org/app";
  static constexpr const char *kRedis = "spiffe://example.org/redis";

  identity::BundleSet bundles() const {
    return testing::bundles_of({{"example.org", authority.certificate.get()}});
  }
  std::shared_ptr<const Credentials> credentials(const testing::Identity &identity,
                                                 const char *id) const;
};
const World &world();

class StockPeer {
 public:
  struct Options {
    const testing::Identity *identity = nullptr;  // no certificate without
    std::function<void(SSL_CTX *)> context;       // called before the SSL object is made
    std::function<void(SSL *)> ssl;
  };
  StockPeer(Role role, const Options &options);

  SSL *ssl() const { return ssl_.get(); }
  SSL_CTX *context() const { return context_.get(); }
  // Gives it bytes and lets it go on with its handshake if that is not over.
  void feed(std::span<const std::uint8_t> bytes);
  void go_on();
  Bytes take();  // what it wants sent
  bool finished() const { return SSL_is_init_finished(ssl_.get()) == 1; }
  // Of the first fatal error; empty string for none.
  const std::string &error() const { return error_; }
  std::optional<Alert> alert_received() const { return alert_; }

  Bytes write(std::string_view text);
  // All application data there is. Also handles what is no data, so take() after it.
  std::string read();
  bool closed() const { return closed_; }  // close_notify came

 private:
  void note_error(int result);
  identity::SslContextPtr context_;
  identity::SslPtr ssl_;
  BIO *input_;
  BIO *output_;
  std::string error_;
  std::optional<Alert> alert_;
  bool closed_ = false;
};

// Our end of the handshake with its stream.
struct OurEnd {
  std::unique_ptr<Handshake> handshake;
  Handshake::Progress progress = Handshake::Progress::need_input;
  Bytes inbox;  // not yet taken
  Bytes outbox;

  OurEnd(std::shared_ptr<const Credentials> credentials, Role role, Handshake::Judge judge = {})
      : handshake(Handshake::start(std::move(credentials), role, std::move(judge))) {}
  void feed(std::span<const std::uint8_t> bytes);
  Bytes take() { return std::exchange(outbox, {}); }
  bool finished() const { return progress == Handshake::Progress::finished; }
  bool failed() const { return progress == Handshake::Progress::failed; }
  HandshakeError error() const { return handshake->failure().error; }
};

// Carries bytes both ways until nothing moves, in pieces of at most `piece` bytes.
void converse(OurEnd &ours, StockPeer &peer, std::size_t piece = SIZE_MAX);
void converse(OurEnd &client, OurEnd &server, std::size_t piece = SIZE_MAX);

// What the owner of a session does with the records of one connection.
struct Session {
  bool we_are_client;
  TrafficState send_state, receive_state;
  std::unique_ptr<RecordCipher> sealer, opener;
  PostHandshake post;
  Bytes inbox;
  std::string data;
  int tickets_records = 0;
  int key_updates = 0;
  std::optional<Alert> alert;         // received
  std::optional<RecordError> broken;  // by a record
  std::optional<Alert> violation;     // by a handshake message
  Bytes outbox;

  Session(const Established &established, Role role);
  Bytes send(ContentType type, std::span<const std::uint8_t> content);
  Bytes send(std::string_view text_) { return send(ContentType::application_data, text(text_)); }
  Bytes send(Alert value) { return send(ContentType::alert, encode(value)); }
  Bytes send_key_update(bool request);
  void feed(std::span<const std::uint8_t> bytes);
};

// Ours and the stock peer of the other role, with good identities unless told otherwise.
struct Ends {
  OurEnd ours;
  StockPeer peer;
  Role role;

  Ends(Role our_role, const StockPeer::Options &options, Handshake::Judge judge = {})
      : ours(our_role == Role::client ? world().credentials(world().app, World::kApp)
                                      : world().credentials(world().redis, World::kRedis),
             our_role, std::move(judge)),
        peer(our_role == Role::client ? Role::server : Role::client, options),
        role(our_role) {}
  Session session() { return Session(ours.handshake->take_established(), role); }
};

// The good peer of our end in that role.
inline StockPeer::Options good_peer(Role our_role) {
  return {our_role == Role::client ? &world().redis : &world().app, {}, {}};
}

inline constexpr Role kRoles[] = {Role::client, Role::server};

}  // namespace inlay::tls::test
