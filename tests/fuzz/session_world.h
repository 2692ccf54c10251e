// A process under inlay in one executable: the shim's objects are linked into it, the program's
// calls are the hooks. Booted by hand, without a helper thread: the target is its own helper, so
// that a run's order of events is the input's alone.
#pragma once

#include <memory>

#include "shim/arena/slot.h"
#include "tls/handshake.h"

namespace inlay::fuzz {

// Once. The temporary folder with its identity goes at exit.
void boot_shim();
// What the peer proves itself with.
std::shared_ptr<const tls::Credentials> peer_credentials();

// One TCP connection of 127.0.0.1: the program's end is managed, the peer's is not known to inlay.
struct Connection {
  int program = -1;
  int peer = -1;
  shim::Slot *slot = nullptr;
};
// Neither end blocks. `inbound`: the program accepted it.
Connection connect_both(bool inbound, bool small_buffers);

// What the helper thread would do now, with every session that has work.
void helper_turn();
bool helper_is_idle();

}  // namespace inlay::fuzz
