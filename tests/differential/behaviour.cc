#include "behaviour.h"

#include <algorithm>

namespace behaviour {
namespace {

// Out of the way of the numbers scenarios look at.
constexpr int kRecord = 200;
constexpr int kOther = 201;

Scenario *g_first = nullptr;
Continuation *g_first_continuation = nullptr;
thread_local const char *t_name = "";

[[noreturn]] void give_up(const char *what) {
  note(what, -1);
  _exit(99);
}

std::uint64_t digest(std::string_view bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

void write_line(const std::string &line) {
  if (write(kRecord, line.data(), line.size()) < 0) _exit(98);
}

void move_descriptor(const char *variable, int to) {
  const char *number = getenv(variable);
  if (number == nullptr) {
    std::fprintf(stderr, "%s is not set: tests/differential/run starts this\n", variable);
    exit(2);
  }
  int from = atoi(number);
  if (dup3(from, to, O_CLOEXEC) < 0) exit(2);
  close(from);
}

}  // namespace

Scenario::Scenario(const char *called, void (*server_end)(int), void (*client_end)(std::uint16_t))
    : name(called), server(server_end), client(client_end), next(g_first) {
  g_first = this;
}

Continuation::Continuation(const char *called, void (*go_on)(int fd))
    : name(called), run(go_on), next(g_first_continuation) {
  g_first_continuation = this;
}

Then::Then(const char *name, int fd) {
  // A path, as that of libinlay.so is: with the shim in the program it is where the library is from.
  static char program[] = "/proc/self/exe", option[] = "--then";
  std::snprintf(number_, sizeof number_, "%d", fd);
  arguments_[0] = program;
  arguments_[1] = option;
  arguments_[2] = const_cast<char *>(name);
  arguments_[3] = number_;
  arguments_[4] = nullptr;
  fcntl(kRecord, F_SETFD, 0);
  fcntl(kOther, F_SETFD, 0);
}

void note(std::string_view what, long value) {
  int saved = errno;
  std::string line = std::string(t_name) + "|" + std::string(what) + " = " + std::to_string(value);
  if (value == -1) line += std::string(" ") + strerrorname_np(saved);
  write_line(line + "\n");
  errno = saved;
}

void say(std::string_view what, std::string_view text) {
  int saved = errno;
  write_line(std::string(t_name) + "|" + std::string(what) + ": " + std::string(text) + "\n");
  errno = saved;
}

void call_myself(const char *name) { t_name = name; }

void tell(std::uint64_t number) {
  if (write(kOther, &number, sizeof(number)) != sizeof(number)) _exit(97);
}

std::uint64_t told() {
  std::uint64_t number = 0;
  ssize_t got;
  do {
    got = read(kOther, &number, sizeof(number));
  } while (got < 0 && errno == EINTR);
  if (got != sizeof(number)) _exit(97);
  return number;
}

void meet() {
  tell(0);
  told();
}

sockaddr_in address_of(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int dial(std::uint16_t port) { return dial(port, 0); }

int dial(std::uint16_t port, int type_flags) {
  int fd = socket(AF_INET, SOCK_STREAM | type_flags, 0);
  sockaddr_in address = address_of(port);
  if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0) give_up("connect");
  return fd;
}

int take(int listener) {
  int fd = accept(listener, nullptr, nullptr);
  if (fd < 0) give_up("accept");
  return fd;
}

int listen_anywhere(std::uint16_t *port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = address_of(0);
  socklen_t length = sizeof(address);
  if (bind(fd, reinterpret_cast<sockaddr *>(&address), length) != 0 || listen(fd, 16) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length) != 0) {
    give_up("listen");
  }
  *port = ntohs(address.sin_port);
  return fd;
}

void make_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

int wait_for(int fd, short events) {
  pollfd one{fd, events, 0};
  if (poll(&one, 1, -1) != 1) give_up("poll");
  return one.revents;
}

bool pass(int to, int fd) {
  char data = 'x';
  iovec part{&data, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{nullptr, 0, &part, 1, control, sizeof(control), 0};
  cmsghdr *rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  return sendmsg(to, &message, 0) == 1;
}
int unpack(int from, int flags) {
  char data;
  iovec part{&data, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{nullptr, 0, &part, 1, control, sizeof(control), 0};
  if (recvmsg(from, &message, flags) != 1) return -1;
  int fd = -1;
  if (CMSG_FIRSTHDR(&message) == nullptr) return -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
  return fd;
}

void await_asleep(const std::atomic<int> &thread) {
  while (thread.load() == 0) sched_yield();
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread.load());
  for (int asleep = 0; asleep < 10;) {  // in one call, not on its way there
    int stat = open(path, O_RDONLY | O_CLOEXEC);  // no stream: another thread may hold their locks
    if (stat < 0) return;
    char line[64] = {};
    char state = 0;
    if (read(stat, line, sizeof line - 1) <= 0 || std::sscanf(line, "%*d (%*[^)]) %c", &state) != 1) {
      state = 0;
    }
    close(stat);
    asleep = state == 'S' ? asleep + 1 : 0;
    poll(nullptr, 0, 1);
  }
}

std::string pattern(std::size_t length, unsigned seed) {
  std::string bytes(length, '\0');
  std::uint32_t state = seed * 2654435761u + 1;
  for (char &c : bytes) {
    state = state * 1664525u + 1013904223u;
    c = static_cast<char>(state >> 24);
  }
  return bytes;
}

bool send_all(int fd, std::string_view bytes, int flags) {
  while (!bytes.empty()) {
    ssize_t sent = send(fd, bytes.data(), bytes.size(), flags | MSG_NOSIGNAL);
    if (sent < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

std::string receive_exactly(int fd, std::size_t length) {
  std::string bytes(length, '\0');
  std::size_t have = 0;
  while (have < length) {
    ssize_t got = recv(fd, bytes.data() + have, length - have, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    have += static_cast<std::size_t>(got);
  }
  bytes.resize(have);
  return bytes;
}

void await_queued(int fd, std::size_t length) {
  std::string looked(length, '\0');
  while (recv(fd, looked.data(), length, MSG_PEEK | MSG_DONTWAIT) < static_cast<ssize_t>(length)) {
    poll(nullptr, 0, 1);
  }
}

void note_data(std::string_view what, std::string_view bytes) {
  char text[64];
  std::snprintf(text, sizeof(text), "%zu bytes, digest %016llx", bytes.size(),
                static_cast<unsigned long long>(digest(bytes)));
  say(what, text);
}

void note_rest(int fd, std::size_t piece) {
  std::string all;
  std::string buffer(piece, '\0');
  ssize_t got;
  while ((got = recv(fd, buffer.data(), piece, 0)) > 0) {
    all.append(buffer, 0, static_cast<std::size_t>(got));
  }
  int saved = errno;
  note_data("rest", all);
  errno = saved;
  note("then recv", got);
}

}  // namespace behaviour

int main(int argc, char **argv) {
  using namespace behaviour;
  if (argc == 2 && std::string_view(argv[1]) == "--list") {
    for (Scenario *one = g_first; one != nullptr; one = one->next) std::puts(one->name);
    return 0;
  }
  if (argc == 4 && std::string_view(argv[1]) == "--then") {
    for (Continuation *one = g_first_continuation; one != nullptr; one = one->next) {
      if (std::string_view(one->name) != argv[2]) continue;
      one->run(atoi(argv[3]));
      return 0;
    }
    return 2;
  }
  if (argc != 3) {
    std::fputs("usage: behaviour --list | behaviour SCENARIO server|client\n", stderr);
    return 2;
  }
  move_descriptor("BEHAVIOUR_RECORD", kRecord);
  move_descriptor("BEHAVIOUR_OTHER", kOther);
  for (Scenario *one = g_first; one != nullptr; one = one->next) {
    if (std::string_view(one->name) != argv[1]) continue;
    if (std::string_view(argv[2]) == "server") {
      std::uint16_t port = 0;
      int listener = listen_anywhere(&port);
      tell(port);
      if (one->server != nullptr) one->server(listener);
    } else {
      auto port = static_cast<std::uint16_t>(told());
      if (one->client != nullptr) one->client(port);
    }
    return 0;
  }
  return 2;
}
