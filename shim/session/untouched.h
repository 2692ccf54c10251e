// An accepted connection nobody has touched: who begins its handshake.
//
// On a blocking socket the handshake's bytes are hidden from select() (hide.cc), so the acceptor's
// helper must begin by itself; yet inetd-like servers accept a connection for another program, and
// what that program finds must be whole. There is no telling from the socket: the helper looks at
// what the thread that accepted it does, and at who else holds it.
#pragma once

#include <cstdint>

#include "shim/arena/slot.h"

namespace inlay::shim {

enum class Untouched : std::uint8_t {
  wait,     // the program may still be giving it to another
  begin,    // it waits for the connection to become readable: this process does the handshake
  hand_on,  // another program speaks on it, or may
};
// `waited_ns`: since it was accepted. The helper thread only.
Untouched judge_untouched(Slot &slot, int fd, std::int64_t waited_ns) noexcept;

// The program closes it, untouched and its last: true when this process begins the handshake all
// the same, to end the connection in good order behind it. A bare FIN would say less to the peer,
// who cannot tell it from one that somebody in between made; and a ClientHello that nobody read
// makes it a reset. False where another process may have been given the descriptor, or too many
// wait like this.
bool begin_to_end(Slot &slot, int fd) noexcept;
// How often note_giving() was called.
std::uint32_t givings() noexcept;

}  // namespace inlay::shim
