// Handshake messages after the handshake (RFC 8446 §4.6): KeyUpdate is acted on, NewSessionTicket
// is swallowed, everything else is a protocol violation. Plain data: lives in shared memory.
#pragma once

#include <cstdint>
#include <span>

#include "tls/alert.h"

namespace inlay::tls {

enum class PostHandshakeEvent : std::uint8_t {
  need_more,             // the record is used up; no message is complete
  key_update,            // the peer's sending key changes with the next record
  key_update_requested,  // as above, and we must answer with a KeyUpdate of our own
  violation,             // fail with `alert`
};

struct PostHandshake {
  std::uint8_t header[4] = {};  // of a message that spans records
  std::uint8_t header_length = 0;
  std::uint32_t remaining = 0;     // body bytes still to swallow
  std::uint32_t idle_records = 0;  // records without data since the last application data
  Alert alert = Alert::unexpected_message;

  // Takes the plaintext of one handshake record. A KeyUpdate must end its record (§5.1), so at most
  // one event comes of a record.
  PostHandshakeEvent consume(std::span<const std::uint8_t> plaintext, bool we_are_client) noexcept;
  // True inside a message that goes on in the next record: a record of any other type is then a
  // violation (unexpected_message, §5.1).
  bool mid_message() const noexcept { return header_length != 0; }
  // Call on each application-data record with data: resets the flood counter (T39).
  void data_seen() noexcept { idle_records = 0; }
  // Call on each other record without data (empty application data, user_canceled); consume()
  // counts its own. False once a peer floods (more than 32 in a row).
  bool empty_seen() noexcept { return ++idle_records <= 32; }
};

// The KeyUpdate message's bytes, request_update set or not.
std::span<const std::uint8_t> key_update_message(bool request_update) noexcept;

}  // namespace inlay::tls
