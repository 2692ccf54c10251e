// Asking the agent from a command: one request at a time, waiting for its answer no longer than
// told. libinlay.so has its own way, which never waits on a thread of the program.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent_protocol.h"

namespace inlay::identity {

enum class AgentFailureKind : std::uint8_t {
  absent,     // no socket, or nobody listens at it
  untrusted,  // whoever listens is neither root nor this user, or others could replace the socket
  silent,     // no answer in time
  broken,     // it hung up, or its answer is not of the protocol
  refused,    // `refusal` says how
};

struct AgentFailure {
  AgentFailureKind kind{};
  AgentRefusal refusal{};  // when refused
  std::string message;     // one line: what is wrong and what to do
};

struct AgentAnswer {
  AgentFrame frame{};  // never `refused`
  std::string bytes;
  int fd = -1;  // of a snapshot; the receiver owns it

  AgentAnswer() = default;
  AgentAnswer(AgentAnswer &&other) noexcept;
  AgentAnswer &operator=(AgentAnswer &&other) noexcept;
  ~AgentAnswer();
};

// The paths where an agent is looked for when nobody says: kAgentSocket, then the user's own.
std::vector<std::string> standard_agent_sockets();

class AgentClient {
 public:
  // The first of `paths` (absolute) at which an agent listens; one that cannot be trusted is an
  // error, not a reason to look further. The failure names them all.
  static tl::expected<AgentClient, AgentFailure> connect(
      const std::vector<std::string> &paths,
      std::chrono::milliseconds timeout = std::chrono::seconds(5));

  AgentClient(AgentClient &&other) noexcept;
  AgentClient &operator=(AgentClient &&) = delete;
  ~AgentClient();

  // A refusal is a failure. Answers to nobody's request (news) are skipped.
  tl::expected<AgentAnswer, AgentFailure> ask(AgentFrame frame, std::string_view bytes);
  const std::string &path() const { return path_; }
  // Readable when the agent has news (after an attach). It stays this object's.
  int fd() const { return fd_; }

 private:
  AgentClient(int fd, std::string path, std::chrono::milliseconds timeout)
      : fd_(fd), path_(std::move(path)), timeout_(timeout) {}

  int fd_;
  std::string path_;
  std::chrono::milliseconds timeout_;
  std::uint32_t last_request_ = 0;
};

}  // namespace inlay::identity
