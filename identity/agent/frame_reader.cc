#include "identity/agent/frame_reader.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "identity/agent/credentials.h"

namespace inlay::identity::agent {

FrameReader::Got FrameReader::read(int fd, IncomingFrame *out) {
  for (;;) {
    std::span<char> room;
    if (have_ < sizeof(AgentHeader)) {
      room = {reinterpret_cast<char *>(&frame_.header) + have_, sizeof(AgentHeader) - have_};
    } else {
      const std::size_t done = have_ - sizeof(AgentHeader);
      room = {frame_.body.data() + done, frame_.body.size() - done};
      if (room.empty()) {
        *out = std::exchange(frame_, IncomingFrame());
        have_ = 0;
        return Got::frame;
      }
    }
    Message message = receive(fd, room);
    if (message.length < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return Got::nothing;
      return broken("the connection failed");
    }
    if (message.length == 0) {
      return have_ == 0 ? Got::end : broken("it ended in the middle of a request");
    }
    if (message.foreign) return broken("descriptors came with the request");
    if (have_ == 0) {
      frame_.writer = message.writer;
      frame_.pidfd = std::move(message.pidfd);
    } else if (message.writer != frame_.writer) {
      return broken("two processes wrote parts of one request");
    }
    have_ += static_cast<std::size_t>(message.length);
    if (have_ < sizeof(AgentHeader)) continue;
    if (have_ == sizeof(AgentHeader)) {
      const AgentHeader &header = frame_.header;
      if (header.magic != kAgentMagic) return broken("not of the protocol");
      if (header.version != kAgentVersion) return broken("of another version of the protocol");
      if (header.length > kMaxAgentRequest) return broken("a request longer than any can be");
      if (header.request == 0) return broken("a request without a number");
      frame_.body.resize(header.length);
    }
  }
}

}  // namespace inlay::identity::agent
