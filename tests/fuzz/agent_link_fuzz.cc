// What a program reads from its agent: any bytes, in any pieces, with descriptors among them.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "frames.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/agent_connection.h"
#include "shim/session/session.h"

namespace {

using namespace inlay;
using namespace inlay::fuzz;
using shim::AgentConnection;
using shim::AgentFrameBody;
namespace kernel = shim::kernel;

std::string *g_path = nullptr;

int listen_there() {
  must(shim::make_process_page() && shim::make_descriptor_table());
  std::string folder = (std::filesystem::temp_directory_path() / "inlay-fuzz-XXXXXX").string();
  must(mkdtemp(folder.data()) != nullptr);
  g_path = new std::string(folder + "/agent.sock");
  std::atexit([] { std::filesystem::remove_all(std::filesystem::path(*g_path).parent_path()); });
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  g_path->copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  must(fd >= 0 && bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 &&
       listen(fd, 4) == 0);
  return fd;
}

void send_descriptors(int fd, const std::string &bytes, int count) {
  iovec part{const_cast<char *>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(static_cast<std::size_t>(count) * sizeof(int));
  cmsghdr *item = CMSG_FIRSTHDR(&message);
  *item = {.cmsg_len = CMSG_LEN(static_cast<std::size_t>(count) * sizeof(int)),
           .cmsg_level = SOL_SOCKET,
           .cmsg_type = SCM_RIGHTS};
  const int both[2] = {fd, fd};
  std::memcpy(CMSG_DATA(item), both, static_cast<std::size_t>(count) * sizeof(int));
  sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// How many descriptors are inlay's own.
int own_descriptors() {
  int count = 0;
  for (int fd = shim::next_own_descriptor(0); fd >= 0; fd = shim::next_own_descriptor(fd + 1))
    ++count;
  return count;
}

// The lowest number that is free: one that leaks moves it.
int lowest_free() {
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  close(fd);
  return fd;
}

void drain(int fd) {
  char bytes[4096];
  while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
  }
}

void play(int listener, Input input) {
  AgentConnection connection;
  must(connection.open(g_path->c_str()) == 0);
  const int agent = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  must(agent >= 0);
  Written written(identity::kMaxAgentAnswer, false);
  bool open = true, ended = false;
  while (open) {
    const std::uint8_t choice = input.byte();
    if (input.empty()) {
      shutdown(agent, SHUT_WR);
      ended = true;
    } else if (choice % 32 == 31) {
      shim::request_attach(connection, {});
    } else if (choice % 32 == 30) {
      drain(agent);
    } else if (const std::string bytes = written.step(input, choice); !bytes.empty()) {
      if (choice % 16 == 13) {
        send_descriptors(agent, bytes, 1 + choice / 128);
      } else {
        must(send(agent, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
             static_cast<ssize_t>(bytes.size()));
      }
    }
    if (!connection.is_open()) break;  // requests that nobody reads
    AgentFrameBody frame;
    AgentConnection::Got got;
    while ((got = connection.receive(frame)) == AgentConnection::Got::frame) {
      const auto expected = written.next();
      must(expected && std::memcmp(&expected->header, &frame.header, sizeof frame.header) == 0);
      must(std::string(frame.bytes.begin(), frame.bytes.end()) == expected->body);
      must(frame.fd < 0 || shim::is_own_descriptor(frame.fd));
      const std::string text = shim::refusal_text(frame);
      must(text.size() <= expected->body.size());
    }
    must(!written.next());  // none is kept back
    open = got == AgentConnection::Got::nothing;
    must(open ? !ended && !written.broken() : ended || written.broken());
    must(connection.is_open() == open);
  }
  close(agent);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  static const int listener = listen_there();
  static const int first = lowest_free();
  play(listener, Input(data, size));
  must(own_descriptors() == 0 && lowest_free() == first);
  return 0;
}
