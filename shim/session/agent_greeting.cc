#include "shim/session/agent_greeting.h"

#include <poll.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "shim/arena/kernel.h"
#include "shim/boot/sealed.h"
#include "shim/session/agent_connection.h"
#include "shim/session/helper.h"

namespace inlay::shim {
namespace {

constexpr std::int64_t kPatienceNs = 5'000'000'000;

// False when `until` passed.
bool wait(const AgentConnection &connection, std::int64_t until_ns) noexcept {
  const std::int64_t left = until_ns - monotonic_ns();
  if (left <= 0) return false;
  pollfd item{connection.fd(),
              static_cast<short>(POLLIN | (connection.wants_write() ? POLLOUT : 0)), 0};
  timespec timeout{left / 1'000'000'000, left % 1'000'000'000};
  kernel::call(SYS_ppoll, kernel::word(&item), 1, kernel::word(&timeout), 0, 8);
  return true;
}

tl::expected<AgentGreeting, std::string> understand(const AgentFrameBody &frame) {
  if (frame.header.frame == identity::AgentFrame::refused)
    return tl::unexpected(refusal_text(frame));
  AgentGreeting greeting;
  const boot::SealedMemory memory(frame.fd, 0);
  if (frame.header.frame != identity::AgentFrame::snapshot || !memory ||
      frame.bytes.size() < sizeof greeting.answer) {
    return tl::unexpected(std::string("the agent sent no snapshot"));
  }
  std::memcpy(&greeting.answer, frame.bytes.data(), sizeof greeting.answer);
  auto snapshot = identity::parse_agent_snapshot(memory.bytes());
  if (!snapshot) return tl::unexpected("the agent sent " + snapshot.error());
  greeting.snapshot = *std::move(snapshot);
  return greeting;
}

}  // namespace

tl::expected<AgentGreeting, std::string> greet_agent(const std::string &socket) {
  const auto trouble = [&socket](const std::string &what) {
    return tl::unexpected(socket + ": " + what);
  };
  const std::int64_t until = monotonic_ns() + kPatienceNs;
  AgentConnection connection;
  // A full backlog gives EAGAIN: the agent has not come to it yet.
  for (int error = connection.open(socket.c_str()); error != 0;
       error = connection.open(socket.c_str())) {
    if (error != EAGAIN || monotonic_ns() >= until) return trouble(describe_agent_error(error));
    const timespec pause{0, 5'000'000};
    kernel::call(SYS_nanosleep, kernel::word(&pause), 0);
  }
  request_attach(connection, {});
  for (;;) {
    AgentFrameBody frame;
    switch (connection.receive(frame)) {
      case AgentConnection::Got::gone:
        return trouble("the agent has gone");
      case AgentConnection::Got::frame: {
        return understand(frame);
      }
      case AgentConnection::Got::nothing:
        if (!wait(connection, until)) return trouble("the agent does not answer");
        connection.flush();
    }
  }
}

}  // namespace inlay::shim
