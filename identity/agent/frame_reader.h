// Frames from a socket whose writer may be hostile: nothing is believed before it is checked, and
// no memory given before a length is within bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "identity/agent/workload.h"
#include "identity/agent_protocol.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

struct IncomingFrame {
  AgentHeader header;
  std::string body;
  // Who wrote it, all of it; empty when the kernel cannot say any more.
  std::optional<Caller> writer;
  policy::UniqueFd pidfd;
};

class FrameReader {
 public:
  enum class Got : std::uint8_t {
    nothing,  // for now
    frame,
    end,     // of the connection, between two frames
    broken,  // complaint() says how
  };
  // Never reads beyond the frame's end.
  Got read(int fd, IncomingFrame *out);
  bool in_the_middle() const noexcept { return have_ > 0; }
  const char *complaint() const noexcept { return complaint_; }

 private:
  Got broken(const char *complaint) {
    complaint_ = complaint;
    return Got::broken;
  }

  IncomingFrame frame_;
  std::size_t have_ = 0;  // bytes of header and body
  const char *complaint_ = "";
};

}  // namespace inlay::identity::agent
