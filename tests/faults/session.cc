// A program with two connections, one after the other, for the tests that let its calls fail: it
// expects errors, and says what it got. Standard output is a line of JSON for each connection.
//
//   session client PORT TEXT         sends TEXT, reads it back, ends
//   session server TEXT              says its port, sends back what comes
//   session polling-client ..., polling-server ...     the same without ever blocking but in poll()
//   session single-client ..., single-server ...       one connection
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

bool g_polling = false;
int g_connections = 2;

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

bool be_server(int fd, std::size_t length, Result &result) {
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
}

void connection_out(int port, std::string_view text) {
  Result result;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  result.step = "socket";
  bool good = fd >= 0;
  if (good) {
    prepare(fd);
    good = connect_to(fd, port, result) && be_client(fd, text, result);
  }
  if (!good) result.error = errno;
  if (fd >= 0) close(fd);
  tell(result, good, port);
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
  bool good = be_server(fd, text.size(), result);
  if (!good) result.error = errno;
  close(fd);
  tell(result, good, ntohs(address.sin_port));
}

}  // namespace

int main(int count, char **words) {
  std::string_view role = count > 1 ? words[1] : "";
  if (role.starts_with("polling-")) {
    g_polling = true;
    role.remove_prefix(8);
  } else if (role.starts_with("single-")) {
    g_connections = 1;
    role.remove_prefix(7);
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
