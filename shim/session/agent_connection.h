// One connection to the agent (identity/agent_protocol.h), by direct system calls that never wait.
// It is an own descriptor: close-on-exec, and the program cannot close it by way of the C library.
// One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "identity/agent_protocol.h"

namespace inlay::shim {

struct AgentFrameBody {
  identity::AgentHeader header;
  std::vector<std::uint8_t> bytes;
  int fd = -1;  // what came along, an own descriptor; -1 for nothing

  AgentFrameBody() = default;
  ~AgentFrameBody();
  AgentFrameBody(const AgentFrameBody &) = delete;
  AgentFrameBody &operator=(const AgentFrameBody &) = delete;
  void swap(AgentFrameBody &other) noexcept;
};

class AgentConnection {
 public:
  AgentConnection() = default;
  ~AgentConnection() { close(); }
  AgentConnection(const AgentConnection &) = delete;
  AgentConnection &operator=(const AgentConnection &) = delete;

  // 0, or what is wrong: an errno, EPERM for a listener that is neither root's nor this user's.
  int open(const char *path) noexcept;
  void close() noexcept;
  // After fork, in the child: the descriptor is the parent's and has been closed.
  void forget() noexcept;
  bool is_open() const noexcept { return fd_ >= 0; }
  int fd() const noexcept { return fd_; }

  // Puts a request behind those that wait to be sent, and sends what the kernel takes. Its number,
  // 0 when the connection is gone. May throw std::bad_alloc.
  std::uint32_t request(identity::AgentFrame frame, std::span<const std::uint8_t> head,
                        std::span<const std::uint8_t> body = {});
  // False when the connection is gone.
  bool flush() noexcept;
  bool wants_write() const noexcept { return sent_ < unsent_.size(); }

  enum class Got : std::uint8_t { frame, nothing, gone };
  // The next whole frame. `gone` also for what the protocol does not know, and for a number that is
  // no longer this connection. May throw std::bad_alloc.
  Got receive(AgentFrameBody &frame);

 private:
  bool is_ours() const noexcept;
  long receive_header(AgentFrameBody &frame) noexcept;

  int fd_ = -1;
  std::uint64_t cookie_ = 0;  // SO_COOKIE: another way to close may have given the number away
  std::uint64_t inode_ = 0;   // the same, for when the kernel does not tell the other
  std::uint32_t last_request_ = 0;
  std::vector<std::uint8_t> unsent_;
  std::size_t sent_ = 0;
  AgentFrameBody incoming_;
  std::size_t received_ = 0;  // of header and body together
};

// What open() said, for a person.
std::string describe_agent_error(int error);
// The first request: who this process is, if that is not what `known` tells.
std::uint32_t request_attach(AgentConnection &connection, const identity::SnapshotAnswer &known);
// The text of a refused frame.
std::string refusal_text(const AgentFrameBody &frame);

template <typename Head>
std::span<const std::uint8_t> bytes_of(const Head &head) noexcept {
  return {reinterpret_cast<const std::uint8_t *>(&head), sizeof head};
}

}  // namespace inlay::shim
