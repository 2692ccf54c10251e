// A program with two connections, one after the other, for the tests that let its calls fail: it
// expects errors, and says what it got. Standard output is a line of JSON for each connection.
//
//   session client PORT TEXT         sends TEXT, reads it back, ends
//   session server TEXT              says its port, sends back what comes
//   session polling-client ..., polling-server ...     the same without ever blocking but in poll()
//   session single-client ..., single-server ...       one connection
//   session tuned-client ..., tuned-server ...         with socket options
//
// In other processes, which tell what they got:
//   session forked-client ..., forked-server ...       a child has the connection
//   session shared-client ...                          a child sends, its parent receives
//   session passed-client ..., passed-server ...       a worker receives it in a message
//   session executed-client ..., spawned-client ...    another image, or this one where it cannot
//   be had session continue FD TEXT                           that image
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

bool g_polling = false;
bool g_tuned = false;
int g_connections = 2;

// Who talks on a connection.
enum class Hands { own, forked, shared, passed, executed, spawned };
Hands g_hands = Hands::own;

struct Result {
  std::string step = "none";
  int error = 0;
  std::string received;
};

// Waits where the call could not go on, as programs do. False when the error is one.
bool again(int fd, short events) {
  if (errno == EINTR) return true;
  if (!g_polling || errno != EAGAIN) return false;
  pollfd wanted{fd, events, 0};
  int got = 0;
  do got = poll(&wanted, 1, -1);
  while (got < 0 && errno == EINTR);
  return got >= 0;
}

bool connect_to(int fd, int port, Result &result) {
  result.step = "connect";
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0) return true;
  if (errno != EINPROGRESS && errno != EINTR) return false;
  pollfd wanted{fd, POLLOUT, 0};
  int got = 0;
  do got = poll(&wanted, 1, -1);
  while (got < 0 && errno == EINTR);
  socklen_t length = sizeof errno;
  int error = 0;
  if (got < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return false;
  errno = error;
  return error == 0;
}

bool send_all(int fd, std::string_view text, Result &result) {
  result.step = "send";
  while (!text.empty()) {
    ssize_t sent = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      text.remove_prefix(static_cast<std::size_t>(sent));
    } else if (!again(fd, POLLOUT)) {
      return false;
    }
  }
  return true;
}

// Up to `enough` bytes, or the end of the stream.
bool receive(int fd, std::size_t enough, Result &result) {
  result.step = "recv";
  while (result.received.size() < enough) {
    char buffer[16384];
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got > 0) {
      result.received.append(buffer, static_cast<std::size_t>(got));
    } else if (got == 0) {
      result.step = "end";
      return true;
    } else if (!again(fd, POLLIN)) {
      return false;
    }
  }
  return true;
}

bool be_client(int fd, std::string_view text, Result &result) {
  if (!send_all(fd, text, result) || !receive(fd, text.size(), result)) return false;
  result.step = "shutdown";
  if (shutdown(fd, SHUT_WR) != 0) return false;
  return receive(fd, text.size() + 1, result);
}

bool be_server(int fd, std::string_view text, Result &result) {
  const std::size_t length = text.size();
  while (result.received.size() < length && result.step != "end") {
    std::size_t before = result.received.size();
    if (!receive(fd, before + 1, result)) return false;
    if (!send_all(fd, std::string_view(result.received).substr(before), result)) return false;
  }
  return receive(fd, length + 1, result);
}

void tell(const Result &result, bool good, int port) {
  std::string hex;
  for (char byte : result.received) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[static_cast<unsigned char>(byte) >> 4];
    hex += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  std::printf(
      "{\"good\": %s, \"step\": \"%s\", \"error\": \"%s\", \"port\": %d, \"received\": \"%s\"}\n",
      good ? "true" : "false", result.step.c_str(), good ? "" : strerrorname_np(result.error), port,
      hex.c_str());
  std::fflush(stdout);
}

void prepare(int fd) {
  if (g_polling) fcntl(fd, F_SETFL, O_NONBLOCK);
  if (!g_tuned) return;
  const int on = 1;
  const timeval minute{60, 0};
  const linger off{0, 0};
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof minute);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &minute, sizeof minute);
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
}

// The program's part of a connection, and what it says of it.
struct Part {
  bool (*play)(int fd, std::string_view text, Result &result);
  std::string_view text;
  int port = 0;

  void tell_of(int fd) const {
    Result result;
    bool good = play(fd, text, result);
    if (!good) result.error = errno;
    close(fd);
    tell(result, good, port);
  }
  void tell_failed(const char *step) const {
    Result result;
    result.step = step;
    result.error = errno;
    tell(result, false, port);
  }
};

// What it ended with.
int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

[[noreturn]] void end_child() { std::exit(0); }

void with_child(const Part &part, int fd) {
  pid_t child = fork();
  if (child < 0) {
    part.tell_failed("fork");
  } else if (child == 0) {
    part.tell_of(fd);
    end_child();
  }
  close(fd);
  if (child > 0) wait_for(child);
}

void with_two(const Part &part, int fd) {
  pid_t child = fork();
  if (child == 0) {
    Result result;
    int error = send_all(fd, part.text, result) ? 0 : errno;
    close(fd);
    std::exit(error);
  }
  Result result;
  result.step = "fork";
  bool good = child > 0;
  if (good) {
    int error = wait_for(child);
    good = receive(fd, part.text.size(), result);
    if (good && error != 0) {
      // The kernel tells a connection's error once, and has told it there.
      result.step = "send";
      errno = error;
      good = false;
    }
    good = good && shutdown(fd, SHUT_WR) == 0 && receive(fd, part.text.size() + 1, result);
  }
  if (!good) result.error = errno;
  close(fd);
  tell(result, good, part.port);
}

// A message with the descriptor, or for it.
struct Envelope {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};

  Envelope() {
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = room;
    message.msg_controllen = sizeof room;
  }
  Envelope(const Envelope &) = delete;
  Envelope &operator=(const Envelope &) = delete;
};

int send_descriptor(int way, int fd) {
  Envelope envelope;
  cmsghdr *header = CMSG_FIRSTHDR(&envelope.message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  ssize_t sent = 0;
  do sent = sendmsg(way, &envelope.message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -1 : 0;
}

int receive_descriptor(int way) {
  Envelope envelope;
  ssize_t got = 0;
  do got = recvmsg(way, &envelope.message, 0);
  while (got < 0 && errno == EINTR);
  if (got < 0) return -1;
  const cmsghdr *header = CMSG_FIRSTHDR(&envelope.message);
  int fd = -1;
  errno = got == 0 ? EPIPE : EMFILE;  // there was no message; or no number for what is in it
  if (header != nullptr) std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

void with_worker(const Part &part, int fd) {
  int way[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, way) != 0) {
    part.tell_failed("socketpair");
    close(fd);
    return;
  }
  pid_t worker = fork();
  if (worker == 0) {
    close(fd);
    close(way[0]);
    int passed = receive_descriptor(way[1]);
    if (passed >= 0) part.tell_of(passed);
    if (passed < 0 && errno != EPIPE) part.tell_failed("recvmsg");
    close(way[1]);
    end_child();
  }
  if (worker < 0) part.tell_failed("fork");
  close(way[1]);
  if (worker > 0 && send_descriptor(way[0], fd) != 0) part.tell_failed("sendmsg");
  close(fd);
  close(way[0]);
  if (worker > 0) wait_for(worker);
}

void with_image(const Part &part, int fd) {
  std::string number = std::to_string(fd), text(part.text);
  char name[] = "session", role[] = "continue";
  char *words[] = {name, role, number.data(), text.data(), nullptr};
  constexpr const char *kImage = "/proc/self/exe";
  if (g_hands == Hands::spawned) {
    pid_t child = 0;
    errno = posix_spawn(&child, kImage, nullptr, nullptr, words, environ);
    if (errno != 0) part.tell_failed("posix_spawn");
    int error = errno;
    close(fd);
    if (error == 0) wait_for(child);
    return;
  }
  pid_t child = fork();
  if (child < 0) {
    part.tell_failed("fork");
  } else if (child == 0) {
    execve(kImage, words, environ);
    part.tell_of(fd);  // as if it had not been tried
    end_child();
  }
  close(fd);
  if (child > 0) wait_for(child);
}

void hand_out(const Part &part, int fd) {
  switch (g_hands) {
    case Hands::own:
      return part.tell_of(fd);
    case Hands::forked:
      return with_child(part, fd);
    case Hands::shared:
      return with_two(part, fd);
    case Hands::passed:
      return with_worker(part, fd);
    case Hands::executed:
    case Hands::spawned:
      return with_image(part, fd);
  }
}

void connection_out(int port, std::string_view text) {
  Result result;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  result.step = "socket";
  bool good = fd >= 0;
  if (good) {
    prepare(fd);
    good = connect_to(fd, port, result);
  }
  if (good) return hand_out({be_client, text, port}, fd);
  result.error = errno;
  if (fd >= 0) close(fd);
  tell(result, false, port);
}

void connection_in(int listener, std::string_view text) {
  Result result;
  int fd = -1;
  // What fails here costs nobody a connection: it stays in the backlog.
  for (int tries = 0; fd < 0 && tries < 10; ++tries) {
    pollfd wanted{listener, POLLIN, 0};
    poll(&wanted, 1, -1);
    fd = accept(listener, nullptr, nullptr);
  }
  result.step = "accept";
  if (fd < 0) {
    result.error = errno;
    return tell(result, false, 0);
  }
  sockaddr_in address{};
  socklen_t length = sizeof address;
  getpeername(fd, reinterpret_cast<sockaddr *>(&address), &length);
  prepare(fd);
  hand_out({be_server, text, ntohs(address.sin_port)}, fd);
}

}  // namespace

int main(int count, char **words) {
  std::string_view role = count > 1 ? words[1] : "";
  const std::size_t dash = role.find('-');
  if (dash != role.npos) {
    const std::string_view kind = role.substr(0, dash);
    role.remove_prefix(dash + 1);
    if (kind == "polling") g_polling = true;
    if (kind == "tuned") g_tuned = true;
    if (kind == "single") g_connections = 1;
    if (kind == "forked") g_hands = Hands::forked;
    if (kind == "shared") g_hands = Hands::shared;
    if (kind == "passed") g_hands = Hands::passed;
    if (kind == "executed") g_hands = Hands::executed;
    if (kind == "spawned") g_hands = Hands::spawned;
  }
  if (role == "continue" && count == 4) {
    Part{be_client, words[3]}.tell_of(std::atoi(words[2]));
    return 0;
  }
  if (role == "client" && count == 4) {
    for (int i = 0; i < g_connections; ++i) connection_out(std::atoi(words[2]), words[3]);
    return 0;
  }
  if (role != "server" || count != 3) return 2;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto *generic = reinterpret_cast<sockaddr *>(&address);
  if (listener < 0 || bind(listener, generic, length) != 0 || listen(listener, 8) != 0 ||
      getsockname(listener, generic, &length) != 0) {
    std::printf("{\"port\": 0, \"error\": \"%s\"}\n", strerrorname_np(errno));
    return 0;
  }
  std::printf("{\"port\": %d}\n", ntohs(address.sin_port));
  std::fflush(stdout);
  for (int i = 0; i < g_connections; ++i) connection_in(listener, words[2]);
  close(listener);
  return 0;
}
