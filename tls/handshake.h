// The TLS 1.3 handshake over memory: OpenSSL drives it, this file feeds it records and takes its
// output. TLS 1.3 only, mutual, no SNI, no tickets, no resumption, no 0-RTT. Runs on inlay's helper
// thread only; not thread-safe per object.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "identity/file_source.h"
#include "identity/verify.h"
#include "tls/alert.h"
#include "tls/record.h"
#include "tls/remote_key.h"

namespace inlay::tls {

inline constexpr const char kAlpn[] = "inlay/1";

enum class Role : std::uint8_t { client, server };

// What a client makes of a ClientHello where a ServerHello is due (simultaneous.h).
enum class OtherClient : std::uint8_t {
  refused,  // a protocol violation
  met,      // one of the two goes on as the server
  itself,   // one socket is both ends: nothing but this very ClientHello may come back
};

// SSL_CTX for both roles, built once per Material. Immutable, shared between handshakes.
class Credentials {
 public:
  // The error is one line for the log.
  static tl::expected<std::shared_ptr<const Credentials>, std::string> make(
      std::shared_ptr<const identity::Material> material);
  ~Credentials();
  Credentials(const Credentials &) = delete;
  Credentials &operator=(const Credentials &) = delete;
  const identity::Material &material() const noexcept;

 private:
  friend class Handshake;
  struct State;
  explicit Credentials(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

enum class HandshakeError : std::uint8_t {
  none,
  not_tls,  // the first bytes are no TLS record
  version,  // no TLS 1.3 in common
  alpn,     // the peer offers protocols, none of them ours
  no_certificate,
  certificate,     // see verify_failure
  not_authorised,  // Judge said no
  key_proof,       // CertificateVerify or Finished does not verify
  alert_received,  // see alert
  record_overflow,
  protocol,  // any other violation
  own_svid_expired,
  no_signature,  // whoever holds this workload's key did not sign
  out_of_memory,
  internal,
};
std::string_view sentence(HandshakeError error) noexcept;

struct HandshakeFailure {
  HandshakeError error = HandshakeError::none;
  std::optional<Alert> alert;  // received from the peer
  std::optional<identity::VerifyFailure> verify;
  std::string detail;  // one line, never secret
};

// What a finished handshake leaves behind.
struct Established {
  TrafficState send;
  TrafficState receive;
  identity::SpiffeId peer;
  std::time_t peer_not_after;
  identity::PathRecord peer_path;
  bool alpn;  // "inlay/1" was negotiated
  Role role;  // a client may have become the server, see OtherClient
};

class Handshake {
 public:
  // Asked once with the peer's SPIFFE ID when its chain is verified and it has proved that it holds
  // the key; an empty one allows. A client asks before it sends its own certificate, a server when
  // the handshake is over (the client's is over too, so the refusal is the first record the client
  // reads). Either way the peer gets access_denied.
  using Judge = std::function<bool(const identity::SpiffeId &peer)>;

  // Null when out of memory. With an expired SVID of our own it fails at the first advance().
  static std::unique_ptr<Handshake> start(std::shared_ptr<const Credentials> credentials, Role role,
                                          Judge judge, OtherClient other = OtherClient::refused);
  ~Handshake();
  Handshake(const Handshake &) = delete;
  Handshake &operator=(const Handshake &) = delete;

  enum class Progress : std::uint8_t { need_input, need_signature, finished, failed };

  // A client calls it first with no input to get its ClientHello. Takes bytes as they come from
  // the stream and stops exactly after the last record of the handshake: `consumed` says how many
  // bytes were taken; on need_input an incomplete record at the end is not taken (see
  // bytes_wanted), on finished what follows belongs to the session. Appends what must be sent to
  // `output`, alerts on failure included. Nothing is sent to a peer that does not speak TLS.
  Progress advance(std::span<const std::uint8_t> input, std::size_t &consumed,
                   std::vector<std::uint8_t> &output);
  // On need_signature, which comes only where the Material's key is a remote one: what is to be
  // signed with it.
  const SignatureRequest &signature_request() const noexcept;
  // Goes on with the signature; an empty one fails the handshake with no_signature and `why` as its
  // detail. advance() does nothing until then.
  Progress supply_signature(std::vector<std::uint8_t> signature, std::string why,
                            std::vector<std::uint8_t> &output);
  // The peer has sent a ClientHello to this client, and that is not refused. A Judge may ask.
  bool met_client() const noexcept;
  // How many bytes the next whole record needs from its first byte; 5 while its header is unknown.
  std::size_t bytes_wanted() const noexcept;

  // After finished; once only. Holds secrets: cleanse the copies of the TrafficStates.
  Established take_established();
  // After failed.
  const HandshakeFailure &failure() const noexcept;

 private:
  struct State;
  explicit Handshake(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inlay::tls
