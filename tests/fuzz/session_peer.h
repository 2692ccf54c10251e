// The other end of the target's connection: TLS from tls/, on a socket inlay does not know. It
// sends what the input says and checks what comes: records that authenticate in order, whose data
// is what the program was told it sent.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "tls/handshake.h"
#include "tls/post_handshake.h"

namespace inlay::fuzz {

// The byte at a place of a stream; the two directions are different streams.
inline std::uint8_t byte_at(std::uint64_t place, bool from_peer) {
  const std::uint64_t mixed = (place + (from_peer ? 1u << 30 : 0)) * 0x9e3779b97f4a7c15u;
  return static_cast<std::uint8_t>(mixed >> 56);
}

// What a piece of the peer's stream means to the program once it is there to its last byte.
struct Event {
  enum class Kind {
    data,     // `length` bytes
    nothing,  // a record that no program sees
    end,      // close_notify
    broken,   // the session fails when it gets there
    unknown,  // changed on its way: it fails, or waits for more
  };
  Kind kind;
  std::uint64_t wire_end;
  std::size_t length;        // of data
  std::size_t plain_length;  // of what its header says
};

class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {}
  ~Peer();
  Peer(const Peer &) = delete;
  Peer &operator=(const Peer &) = delete;

  // With the session's keys, or by a handshake.
  void begin(const tls::TrafficState &send, const tls::TrafficState &receive);
  void begin(std::unique_ptr<tls::Handshake> handshake);
  bool established() const { return sealer_ != nullptr; }

  // --- sending: into the pending bytes first, then as far as the input says --------------------
  void seal_data(std::size_t length);
  void seal_empty();
  void seal_alert(tls::Alert alert);
  void seal_key_update(bool request);
  // Any handshake record, and one of a type that may not come.
  void seal(tls::ContentType type, std::span<const std::uint8_t> content, Event::Kind kind);
  void add_garbage(std::span<const std::uint8_t> bytes);
  // Changes a pending byte.
  void corrupt(std::size_t place, std::uint8_t with);
  // Sends up to `most` of the pending bytes.
  void send(std::size_t most);
  // What the handshake still has to send.
  void send_handshake() { send(handshake_end_ > wire_sent ? handshake_end_ - wire_sent : 0); }
  void finish();  // FIN
  void reset();   // RST

  // --- receiving -------------------------------------------------------------------------------
  // Takes what is there, and goes on with the handshake.
  void receive();
  bool wait(int milliseconds);  // for something to receive

  // Data the program may have sent: more is a finding.
  std::uint64_t accepted = 0;
  // Whether the program may have ended its stream.
  bool may_end = false;

  std::uint64_t received() const { return received_; }  // application bytes
  bool ended() const { return close_notify_; }
  bool at_end() const { return fin_ || was_reset_; }
  bool was_reset() const { return was_reset_; }
  bool fin_received() const { return fin_; }
  int key_updates() const { return key_updates_; }

  std::deque<Event> events;
  std::uint64_t wire_sent = 0;  // taken by the kernel
  bool fin_sent = false;
  bool reset_sent = false;
  bool cut = false;  // something in the stream is not as it was sealed
  int requests = 0;  // for KeyUpdates, sent

 private:
  void take_records();
  void advance_handshake();

  int fd_;
  std::unique_ptr<tls::Handshake> handshake_;
  tls::TrafficState send_, receive_;
  std::unique_ptr<tls::RecordCipher> sealer_, opener_;
  tls::PostHandshake post_;
  std::vector<std::uint8_t> pending_;
  std::uint64_t wire_sealed_ = 0;
  std::set<std::uint64_t> changed_;  // places in the stream
  std::uint64_t handshake_end_ = 0;  // of the stream, in bytes
  std::uint64_t sealed_data_ = 0;
  std::vector<std::uint8_t> inbox_;
  std::uint64_t received_ = 0;
  int idle_ = 0;  // records without data in a row
  int key_updates_ = 0;
  bool close_notify_ = false;
  bool alerted_ = false;
  bool may_be_alerted_ = false;  // this end did what a peer may not
  bool fin_ = false;
  bool was_reset_ = false;
};

}  // namespace inlay::fuzz
