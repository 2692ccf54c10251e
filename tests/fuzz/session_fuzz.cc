// The state machine of a session, driven by any order of a peer's bytes, the program's calls and
// the helper's turns, over a real TCP connection. Each call is held against what TCP would say
// (session_program.h), the peer holds what comes against what was sent (session_peer.h).
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>

#include <vector>

#include "input.h"
#include "session_peer.h"
#include "session_program.h"
#include "session_world.h"
#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/session/internal.h"

namespace {

using namespace inlay;
using namespace inlay::fuzz;

constexpr int kMostSteps = 120;
constexpr std::uint64_t kMostBytes = 2 << 20;  // of the program, in one run

// Sizes that matter are around a record's, and small.
std::size_t size_from(Input &input) {
  switch (input.byte() % 4) {
    case 0:
      return input.byte();
    case 1:
      return input.number();
    case 2:
      return tls::kMaxPlaintext - 24 + input.byte() % 48;
    default:
      return std::size_t{3} * input.number();
  }
}

tls::TrafficState keys(tls::Suite suite, std::uint8_t of) {
  tls::TrafficState state;
  const std::vector<std::uint8_t> secret(tls::hash_length(suite), of);
  must(tls::derive(state, suite, secret));
  return state;
}

// As the end of a handshake leaves it (handshake_task.cc).
void establish(shim::Slot &slot, Peer &peer, tls::Suite suite) {
  slot.receiving.traffic = keys(suite, 0x5a);
  slot.sending.traffic = keys(suite, 0xa5);
  peer.begin(slot.receiving.traffic, slot.sending.traffic);
  slot.owner.store(static_cast<std::uint32_t>(shim::kernel::process_id()));
  shim::set_state(slot, shim::State::established);
}

void peer_step(Peer &peer, Program &program, Input &input, std::uint8_t choice) {
  constexpr tls::Alert kAlerts[] = {tls::Alert::close_notify, tls::Alert::user_canceled,
                                    tls::Alert::access_denied, tls::Alert::internal_error};
  switch (choice % 12) {
    case 0:
    case 1:
      peer.seal_data(size_from(input));
      break;
    case 2:
      peer.seal_empty();
      break;
    case 3:
      peer.seal_key_update(input.byte() % 2 == 0);
      break;
    case 4:
      peer.seal_alert(kAlerts[input.byte() % std::size(kAlerts)]);
      break;
    case 5: {
      const std::size_t place = input.number();
      peer.corrupt(place, input.byte());
      break;
    }
    case 6:
      peer.finish();
      break;
    case 7:
      if (input.byte() < 64) peer.reset();
      break;
    case 8: {
      auto garbage = input.bytes(input.byte() % 16);
      peer.add_garbage(garbage);
      break;
    }
    case 9:
      peer.receive();
      break;
    default:
      peer.send(std::min(size_from(input), program.peer_room()));
      break;
  }
}

void program_step(Program &program, Peer &peer, Input &input, std::uint8_t choice) {
  constexpr int kReadFlags[] = {
      0, MSG_PEEK, MSG_DONTWAIT, MSG_WAITALL | MSG_DONTWAIT, MSG_TRUNC, MSG_PEEK | MSG_TRUNC};
  constexpr int kWriteFlags[] = {0, MSG_MORE, MSG_DONTWAIT};
  switch (choice % 16) {
    case 0:
    case 1:
    case 2:
    case 3: {
      const std::uint8_t how = input.byte();
      program.receive(size_from(input), static_cast<Program::ReadBy>(how % 4),
                      kReadFlags[how / 4 % std::size(kReadFlags)]);
      break;
    }
    case 4:
    case 5:
    case 6: {
      const std::uint8_t how = input.byte();
      const std::size_t length = size_from(input);
      if (peer.accepted > kMostBytes) break;
      program.send(length, static_cast<Program::WriteBy>(how % 4),
                   kWriteFlags[how / 4 % std::size(kWriteFlags)]);
      break;
    }
    case 7:
      program.ask_available();
      break;
    case 8:
      program.ask_readiness();
      break;
    case 9:
      program.ask_error();
      break;
    case 10:
      program.duplicate();
      break;
    case 11:
      program.set_flag(IPPROTO_TCP, TCP_CORK, input.byte() % 2);
      break;
    case 12:
      program.set_flag(SOL_SOCKET, SO_RCVLOWAT, input.byte());
      break;
    case 13:
      program.shut(input.byte() % 3);
      break;
    case 14:
      program.close_one(input.byte());
      break;
    default:
      if (input.byte() < 32) program.linger_zero();
      break;
  }
}

// Both ends go on until the peer has all the program sent, while nothing stands against it.
void finish_sending(Program &program, Peer &peer) {
  const int fd = program.number();
  const int off = 0, on = 1;
  shim::kernel::set_option(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof off);
  shim::kernel::set_option(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  for (int rounds = 0; program.healthy(); ++rounds) {
    helper_turn();
    peer.send_handshake();
    program.settle();
    peer.receive();
    if (peer.established() && program.established() && peer.received() == peer.accepted) return;
    must(rounds < 10'000);
    peer.wait(program.established() ? 1 : 0);
  }
}

// What the program closed reaches the peer.
void finish_ending(Program &program, Peer &peer) {
  for (int rounds = 0; program.orderly_end() && !peer.at_end(); ++rounds) {
    helper_turn();
    peer.send_handshake();
    peer.receive();
    must(rounds < 10'000);
    if (!peer.at_end()) peer.wait(1);
  }
  if (!program.orderly_end()) return;
  must(peer.received() == peer.accepted && peer.ended() && peer.fin_received());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  static const bool booted = (boot_shim(), true);
  must(booted);
  Input input(data, size);
  const std::uint8_t setting = input.byte();
  const bool inbound = setting % 2 == 0;
  constexpr tls::Suite kSuites[] = {tls::Suite::aes_128_gcm_sha256, tls::Suite::aes_256_gcm_sha384,
                                    tls::Suite::chacha20_poly1305_sha256};
  const auto lowest_free = [] {
    const long fd = shim::kernel::call(SYS_dup, 2);
    shim::kernel::close(static_cast<int>(fd));
    return fd;
  };
  Connection connection = connect_both(inbound, setting / 2 % 2 == 0);
  const std::uint64_t cookie = connection.slot->cookie.load();
  {
    Peer peer(connection.peer);
    Program program(connection, peer);
    if (setting / 4 % 8 == 0) {
      peer.begin(tls::Handshake::start(peer_credentials(),
                                       inbound ? tls::Role::client : tls::Role::server,
                                       [](const identity::SpiffeId &) { return true; }));
    } else {
      establish(*connection.slot, peer, kSuites[setting / 32 % std::size(kSuites)]);
    }
    for (int step = 0; step < kMostSteps && !input.empty() && !program.closed(); ++step) {
      const std::uint8_t choice = input.byte();
      switch (choice % 8) {
        case 0:
          helper_turn();
          break;
        case 1:
        case 2:
        case 3:
          peer_step(peer, program, input, choice / 8);
          break;
        default:
          program_step(program, peer, input, choice / 8);
          break;
      }
      program.settle();
    }
    if (!program.closed()) {
      program.receive(1, Program::ReadBy::recv, MSG_PEEK);
      finish_sending(program, peer);
    }
    if (!program.closed()) program.read_all();
    while (!program.closed()) program.close_one(0);
    finish_ending(program, peer);
  }
  // The peer is gone; so is what the helper still had.
  for (long rounds = 0; !helper_is_idle(); ++rounds) {
    helper_turn();
    must(rounds < 1'000'000);
    ::sched_yield();
  }
  must(shim::find_slot(cookie) == nullptr);
  static const long lowest = lowest_free();
  must(lowest_free() == lowest);
  return 0;
}
