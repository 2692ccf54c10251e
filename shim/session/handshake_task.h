// The helper's work on one session, and the handshake it drives. The helper thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shim/arena/slot.h"
#include "shim/session/half_open.h"
#include "tls/handshake.h"

namespace inlay::shim {

struct Task : HalfOpenEntry {
  Slot *slot = nullptr;
  std::uint32_t generation = 0;
  int registered = -1;             // descriptor in the helper's epoll set
  bool waiting_logged = false;
  std::int64_t started_ns = 0;
  std::int64_t first_byte_ns = 0;  // 0 until the peer sent something
  std::int64_t poll_at_ns = 0;     // when to look for bytes SO_RCVLOWAT hides; 0 = not
  std::int64_t poll_after_ns = 0;  // the back-off
  std::unique_ptr<tls::Handshake> handshake;
  std::vector<std::uint8_t> input;   // of the record that is arriving
  std::vector<std::uint8_t> output;  // not taken by the kernel yet
  std::size_t output_sent = 0;
  policy::Reason judged = policy::Reason::none;
  // With an agent (agent_link.h).
  std::int64_t agent_since_ns = 0;  // it waits for the agent since then; 0 = it does not
  std::array<std::uint8_t, 32> key{};  // what it signs with
  bool wants_signature = false;
  std::uint32_t signature_request = 0;  // under way
  std::optional<std::vector<std::uint8_t>> signature;  // the answer; empty: none, and why
  std::string no_signature;
  Task *next = nullptr;
  Task *previous = nullptr;
};

// wants_agent: it goes on when the agent has answered (notify_helper).
enum class HandshakeStep : std::uint8_t {
  wants_read,
  wants_write,
  wants_agent,
  established,
  failed
};

// Moves the handshake on as far as it goes without waiting. The slot's life_lock is held.
HandshakeStep step_handshake(Slot &slot, int fd, Task &task) noexcept;

// The deadline runs from the peer's first byte; before that, only a log line after the same time.
std::int64_t deadline_left(const Task &task, std::int64_t now_ns) noexcept;
// True when the session failed by it.
bool deadline_passed(Slot &slot, int fd, Task &task) noexcept;

// Re-fires readiness edges the program may have consumed before there was anything for it.
void refire_readable(Slot &slot, int fd) noexcept;
void refire_writable(int fd) noexcept;

}  // namespace inlay::shim
