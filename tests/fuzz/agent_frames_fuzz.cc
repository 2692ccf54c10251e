// What the agent reads from a client's connection: any bytes, in any pieces, with descriptors among
// them.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>

#include "frames.h"
#include "identity/agent/credentials.h"
#include "identity/agent/frame_reader.h"

namespace {

using namespace inlay;
using namespace inlay::fuzz;
using identity::agent::FrameReader;
using identity::agent::IncomingFrame;

void send_with_descriptor(int fd, const std::string &bytes) {
  iovec part{const_cast<char *>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr *item = CMSG_FIRSTHDR(&message);
  *item = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  std::memcpy(CMSG_DATA(item), &fd, sizeof fd);
  must(sendmsg(fd, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
}

// The lowest number that is free: one that leaks moves it.
int lowest_free() {
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  close(fd);
  return fd;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  static const int first = lowest_free();
  Input input(data, size);
  {
    int ends[2];
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    policy::UniqueFd client(ends[0]), agent(ends[1]);
    must(identity::agent::pass_credentials(agent.get()));
    Written written(identity::kMaxAgentRequest, true);
    FrameReader reader;
    bool over = false, foreign = false, ended = false;
    while (!over) {
      const std::uint8_t choice = input.byte();
      if (input.empty()) {
        shutdown(client.get(), SHUT_WR);
        ended = true;
      } else if (const std::string bytes = written.step(input, choice); !bytes.empty()) {
        if (choice % 61 == 60) {
          send_with_descriptor(client.get(), bytes);
          foreign = true;
        } else {
          must(send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(bytes.size()));
        }
      }
      IncomingFrame frame;
      FrameReader::Got got;
      while ((got = reader.read(agent.get(), &frame)) == FrameReader::Got::frame) {
        const auto expected = written.next();
        must(expected && expected->body == frame.body &&
             std::memcmp(&expected->header, &frame.header, sizeof frame.header) == 0);
        must(frame.writer.has_value() && frame.writer->pid == getpid());
      }
      over = got != FrameReader::Got::nothing;
      must(foreign || !written.next());  // none is kept back
      if (got == FrameReader::Got::end) must(ended && !written.in_the_middle());
      if (got == FrameReader::Got::broken) {
        must(reader.complaint()[0] != '\0' && (foreign || written.broken() || ended));
      }
      if (got == FrameReader::Got::nothing) must(!ended && !written.broken());
    }
  }
  must(lowest_free() == first);
  return 0;
}
