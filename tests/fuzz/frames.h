// Frames of the agent's protocol, as agent_protocol.h alone has them: what readers are held
// against.
#pragma once

#include <cstring>
#include <optional>
#include <string>

#include "identity/agent_protocol.h"
#include "input.h"

namespace inlay::fuzz {

struct Frame {
  identity::AgentHeader header;
  std::string body;
};

// What a writer has put into a connection so far.
class Written {
 public:
  explicit Written(std::size_t longest, bool numbered) : longest_(longest), numbered_(numbered) {}

  // The bytes of one step of the input: a whole frame, a frame that says another length, or any.
  std::string step(Input &input, std::uint8_t choice) {
    std::string bytes;
    if (choice % 4 != 0) {
      identity::AgentHeader header;
      header.frame = static_cast<identity::AgentFrame>(input.byte());
      header.request = input.byte();
      header.length = choice % 4 == 1 ? input.number() * 64u : input.byte();
      if (choice % 64 == 2) header.version = input.byte();
      bytes.assign(reinterpret_cast<const char *>(&header), sizeof header);
    }
    const auto body = input.bytes(input.byte());
    bytes.append(reinterpret_cast<const char *>(body.data()), body.size());
    all_ += bytes;
    return bytes;
  }

  // The next whole frame; nullopt when none is there, for now or, once broken(), for ever.
  std::optional<Frame> next() {
    Frame frame;
    const std::size_t rest = all_.size() - at_;
    if (broken_ || rest < sizeof frame.header) return std::nullopt;
    std::memcpy(&frame.header, all_.data() + at_, sizeof frame.header);
    if (frame.header.magic != identity::kAgentMagic ||
        frame.header.version != identity::kAgentVersion || frame.header.length > longest_ ||
        (numbered_ && frame.header.request == 0)) {
      broken_ = true;
      return std::nullopt;
    }
    if (rest - sizeof frame.header < frame.header.length) return std::nullopt;
    frame.body = all_.substr(at_ + sizeof frame.header, frame.header.length);
    at_ += sizeof frame.header + frame.header.length;
    return frame;
  }
  bool broken() const { return broken_; }
  bool in_the_middle() const { return at_ < all_.size(); }

 private:
  const std::size_t longest_;
  const bool numbered_;  // 0 is no number of a frame
  std::string all_;
  std::size_t at_ = 0;
  bool broken_ = false;
};

}  // namespace inlay::fuzz
