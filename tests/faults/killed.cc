// Run under inlay: shares one connection with a child, and kills the child after so many
// instructions of a call on it. Then goes on with the connection itself, and says how that went.
//
//   killed PORT send|recv|shutdown|close FIRST STRIDE
//
// One connection for FIRST, FIRST+STRIDE, ... until the child comes to the end of its call. Each is
// a line of JSON: after how many instructions, whether the call was over by then, the connection's
// own port, what the parent's send and recv gave.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

constexpr std::string_view kHello = "hello", kChild = "child", kParent = "parent";

[[noreturn]] void give_up(const char *what) {
  std::perror(what);
  std::exit(1);
}

int connected(int port) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) give_up("connect");
  return fd;
}

void exchange_hello(int fd) {
  if (send(fd, kHello.data(), kHello.size(), 0) != static_cast<ssize_t>(kHello.size())) {
    give_up("send");
  }
  char echo[kHello.size()];
  if (recv(fd, echo, sizeof echo, MSG_WAITALL) != static_cast<ssize_t>(sizeof echo) ||
      std::string_view(echo, sizeof echo) != kHello) {
    give_up("recv");
  }
}

void act(int fd, std::string_view what) {
  char byte[64];
  if (what == "send") {
    (void)!send(fd, kChild.data(), kChild.size(), MSG_NOSIGNAL);
  } else if (what == "recv") {
    (void)!recv(fd, byte, 3, 0);
  } else if (what == "shutdown") {
    shutdown(fd, SHUT_WR);
  } else {
    close(fd);
  }
}

// The parent's own. The first makes the loader and the library bind what they bind late.
[[noreturn]] void child(int fd, std::string_view what) {
  ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
  raise(SIGSTOP);
  act(fd, what);
  raise(SIGSTOP);
  _exit(0);
}

// True when the child stopped by itself, its call over, before `steps` instructions.
bool step(pid_t pid, long steps) {
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) give_up("waitpid");
  bool over = false;
  for (long i = 0; i < steps && !over; ++i) {
    if (ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) != 0) give_up("ptrace");
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) give_up("waitpid");
    over = WSTOPSIG(status) == SIGSTOP;
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return over;
}

std::string outcome(ssize_t got) { return got >= 0 ? std::to_string(got) : strerrorname_np(errno); }

}  // namespace

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  const int port = std::atoi(argv[1]);
  const std::string_view what = argv[2];
  const long first = std::atol(argv[3]), stride = std::atol(argv[4]);
  bool over = false;
  for (long steps = first; !over; steps += stride) {
    int fd = connected(port);
    exchange_hello(fd);
    if (what == "recv") {
      // Its echo is what the child reads of, and then the parent.
      if (send(fd, "abcdef", 6, 0) != 6) give_up("send");
      char peeked[6];
      if (recv(fd, peeked, 6, MSG_PEEK | MSG_WAITALL) != 6) give_up("recv");
    }
    sockaddr_in own{};
    socklen_t length = sizeof own;
    getsockname(fd, reinterpret_cast<sockaddr *>(&own), &length);
    pid_t pid = fork();
    if (pid == 0) child(fd, what);
    over = step(pid, steps);
    char data[64];
    std::string received, sent;
    if (what == "recv") {
      // Who asks first is not who reads: what it finds out must not be lost.
      int waiting = 0;
      ioctl(fd, FIONREAD, &waiting);
      ssize_t got = recv(fd, data, sizeof data, MSG_DONTWAIT);
      if (got > 0) received.assign(data, static_cast<std::size_t>(got));
      sent = outcome(got);
    } else {
      sent = outcome(send(fd, kParent.data(), kParent.size(), MSG_NOSIGNAL));
    }
    // With an echo left unread close() would be a reset.
    shutdown(fd, SHUT_WR);
    while (recv(fd, data, sizeof data, 0) > 0) {
    }
    close(fd);
    std::printf(
        "{\"steps\": %ld, \"over\": %s, \"port\": %d, \"outcome\": \"%s\", \"data\": \"%s\"}\n",
        steps, over ? "true" : "false", ntohs(own.sin_port), sent.c_str(), received.c_str());
    std::fflush(stdout);
  }
  return 0;
}
