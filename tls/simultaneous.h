// Both ends of a connection have sent a ClientHello: a simultaneous open (RFC 9293 §3.5), of two
// sockets or of one with itself. TLS has no word for it: here both look at the two ClientHellos,
// and the end with the smaller random goes on as the server. What follows is an ordinary handshake
// that begins with the other's ClientHello; nothing of the one that was dropped is used.
#pragma once

#include <cstdint>
#include <span>

#include "tls/record.h"

namespace inlay::tls {

enum class Meeting : std::uint8_t {
  none,       // the peer's record is no ClientHello, or not a whole one
  as_client,  // ours is answered
  as_server,  // we answer theirs
  mirrored,   // the same random: our own came back, changed or not
};
// Of two whole records: our ClientHello and the first of the peer's.
Meeting meet(std::span<const std::uint8_t> ours, std::span<const std::uint8_t> theirs) noexcept;

// Keys for a socket that is connected to itself: new random ones that nobody else ever has, so that
// what opens was sealed here, once, in this order. The same for both directions, since both are
// one: what is sealed comes back. False when OpenSSL fails.
bool make_own_keys(TrafficState &send, TrafficState &receive) noexcept;

}  // namespace inlay::tls
