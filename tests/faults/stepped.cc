// Interrupts a call on a protected connection at one of its instructions after the other, and has
// something else done with the connection at that very place: by the handler of the signal, or by
// another thread while the call stands still. stepped WAY STRIDE: every STRIDE-th instruction, each
// with a connection of its own. Both ends are this process's; it says what is wrong and exits
// with 1.
//
// The processor's trap flag stops a thread after each instruction, with SIGTRAP: x86-64 only.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace {

constexpr greg_t kTrapFlag = 0x100;

long g_step = 0;
long g_target = 0;
std::function<void()> *g_act = nullptr;

void on_trap(int, siginfo_t *, void *context) {
  if (++g_step != g_target) return;
  int saved = errno;
  static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
  (*g_act)();
  errno = saved;
}

// The call's instructions only. Whether it was that long.
template <typename Call>
bool stepped(long target, Call call, std::function<void()> act) {
  g_step = 0;
  g_target = target;
  g_act = &act;
  asm volatile("subq $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; addq $128, %%rsp" ::
                   : "memory", "cc");
  call();
  asm volatile("subq $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; addq $128, %%rsp" ::
                   : "memory", "cc");
  return g_step >= target;
}

[[noreturn]] void wrong(const char *what, long value = 0) {
  std::printf("instruction %ld: %s (%ld, %s)\n", g_target, what, value, std::strerror(errno));
  std::exit(1);
}

void expect(bool good, const char *what, long value = 0) {
  if (!good) wrong(what, value);
}

// /proc says so; by system calls that nothing here stands in the middle of.
bool is_asleep(int thread) {
  char path[64], line[64] = {};
  std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
  long file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  long got = syscall(SYS_read, file, line, sizeof line - 1);
  syscall(SYS_close, file);
  const char *state = got > 0 ? std::strrchr(line, ')') : nullptr;
  return state != nullptr && state[1] == ' ' && state[2] == 'S';
}

// A thread that does one thing when it is told; whoever tells it waits until that is done, or waits
// for something itself.
class Beside {
 public:
  explicit Beside(std::function<void()> act) : act_(std::move(act)), thread_([this] { run(); }) {
    while (id_ == 0) sched_yield();
  }
  ~Beside() {
    stage_ = kGo;
    thread_.join();
  }
  void go() {
    stage_ = kGo;
    while (stage_ != kDone && !is_asleep(id_)) sched_yield();
  }

 private:
  enum Stage { kWait, kGo, kDone };

  void run() {
    id_ = gettid();
    while (stage_ == kWait) sched_yield();
    act_();
    stage_ = kDone;
  }
  std::function<void()> act_;
  std::atomic<int> id_{0};
  std::atomic<Stage> stage_{kWait};
  std::thread thread_;
};

int g_listener = -1;
sockaddr_in g_address{};

void listen_here() {
  g_address.sin_family = AF_INET;
  g_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof g_address;
  g_listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(g_listener, reinterpret_cast<sockaddr *>(&g_address), length) != 0 ||
      listen(g_listener, 64) != 0)
    _exit(3);
  getsockname(g_listener, reinterpret_cast<sockaddr *>(&g_address), &length);
}

int connect_here(int fd) {
  return connect(fd, reinterpret_cast<sockaddr *>(&g_address), sizeof g_address);
}

// Everything until the end, which is in order or not.
std::string rest_of(int fd, bool *in_order) {
  std::string all;
  char buffer[256];
  ssize_t got = 0;
  while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0)
    all.append(buffer, static_cast<std::size_t>(got));
  *in_order = got == 0;
  return all;
}

// Both ends of a connection over which each has said something.
struct Ends {
  int near, far;
  Ends() : near(socket(AF_INET, SOCK_STREAM, 0)) {
    expect(connect_here(near) == 0, "connect");
    far = accept(g_listener, nullptr, nullptr);
    char c = 0;
    for (int i = 0; i < 2; ++i) {
      expect(send(i == 0 ? near : far, "x", 1, 0) == 1 && recv(i == 0 ? far : near, &c, 1, 0) == 1,
             "a first byte");
    }
  }
  ~Ends() {
    if (near >= 0) close(near);
    close(far);
  }
  void close_near() { close(std::exchange(near, -1)); }
};

bool in_any_order(std::string_view all, std::string_view one, std::string_view other) {
  return all == std::string(one) + std::string(other) ||
         all == std::string(other) + std::string(one);
}

// --- by a signal's handler ----------------------------------------------------------------------

bool shutdown_in_shutdown(long target) {
  Ends ends;
  expect(send(ends.near, "data", 4, 0) == 4, "send");
  int first = -1, second = 0;
  bool reached = stepped(
      target, [&] { first = shutdown(ends.near, SHUT_WR); },
      [&] { second = shutdown(ends.near, SHUT_WR); });
  expect(first == 0 && second == 0, "shutdown", first * 2 + second);
  bool in_order = false;
  expect(rest_of(ends.far, &in_order) == "data" && in_order, "what the peer heard");
  expect(send(ends.far, "late", 4, 0) == 4, "the other direction");
  char late[4];
  expect(recv(ends.near, late, 4, MSG_WAITALL) == 4, "what comes the other way");
  expect(send(ends.near, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "a send after it");
  return reached;
}

bool send_in_send(long target) {
  Ends ends;
  ssize_t first = -1, second = -2;
  bool reached = stepped(
      target, [&] { first = send(ends.near, "first ", 6, 0); },
      [&] {
        second = send(ends.near, "second", 6, MSG_DONTWAIT);
        expect(second == 6 || errno == EAGAIN, "the handler's send", second);
      });
  expect(first == 6, "send", first);
  ends.close_near();
  bool in_order = false;
  std::string all = rest_of(ends.far, &in_order);
  expect(in_any_order(all, "first ", second == 6 ? "second" : "") && in_order, all.c_str());
  return reached;
}

bool recv_in_recv(long target) {
  Ends ends;
  expect(send(ends.far, "0123456789", 10, 0) == 10, "send");
  pollfd waits{ends.near, POLLIN, 0};
  poll(&waits, 1, -1);
  char first[10], second[3];
  ssize_t got = -1, got_in = -1;
  bool reached = stepped(
      target, [&] { got = recv(ends.near, first, 6, 0); },
      [&] {
        got_in = recv(ends.near, second, 3, MSG_DONTWAIT);
        expect(got_in == 3 || errno == EAGAIN, "the handler's recv", got_in);
      });
  expect(got == 6, "recv", got);
  std::string one(first, 6), other(second, got_in == 3 ? 3 : 0);
  expect(
      in_any_order(std::string_view("0123456789").substr(0, one.size() + other.size()), one, other),
      one.c_str());
  expect(send(ends.far, "end", 3, 0) == 3, "send");
  shutdown(ends.far, SHUT_WR);
  bool in_order = false;
  std::string rest = rest_of(ends.near, &in_order);
  expect(one.size() + other.size() + rest.size() == 13 && in_order, rest.c_str());
  return reached;
}

bool close_in_send(long target) {
  Ends ends;
  ssize_t sent = -1;
  bool reached = stepped(
      target, [&] { sent = send(ends.near, "data", 4, MSG_NOSIGNAL); }, [&] { ends.close_near(); });
  expect(sent == 4 || sent == -1, "send", sent);
  if (!reached) ends.close_near();
  bool in_order = false;
  std::string all = rest_of(ends.far, &in_order);
  expect(all.empty() || all == "data", all.c_str());
  expect(sent != 4 || reached || (all == "data" && in_order), "what the peer heard");
  return reached;
}

bool close_in_recv(long target) {
  Ends ends;
  expect(send(ends.far, "data", 4, 0) == 4, "send");
  pollfd waits{ends.near, POLLIN, 0};
  poll(&waits, 1, -1);
  char data[4];
  ssize_t got = -1;
  bool reached = stepped(
      target, [&] { got = recv(ends.near, data, 4, 0); }, [&] { ends.close_near(); });
  expect(got == -1 || (got == 4 && std::memcmp(data, "data", 4) == 0), "recv", got);
  return reached;
}

// --- by another thread --------------------------------------------------------------------------

// What a send that was good says is heard, and nothing else.
bool send_beside(long target, Ends &ends, std::function<void()> call) {
  ssize_t sent = -1;
  bool reached = false;
  {
    Beside beside([&] { sent = send(ends.near, "beside", 6, MSG_NOSIGNAL); });
    reached = stepped(target, call, [&] { beside.go(); });
    if (!reached) return false;
  }
  bool in_order = false;
  std::string all = rest_of(ends.far, &in_order);
  expect(all == (sent == 6 ? "beside" : ""), all.c_str(), sent);
  return true;
}

bool send_beside_close(long target) {
  Ends ends;
  int number = ends.near;
  bool reached = send_beside(target, ends, [&] { close(number); });
  ends.near = -1;
  return reached;
}

bool send_beside_dup2(long target) {
  Ends ends;
  int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  bool reached = send_beside(target, ends, [&] { dup2(null, ends.near); });
  close(null);
  return reached;
}

bool send_beside_connect(long target) {
  int near = socket(AF_INET, SOCK_STREAM, 0);
  ssize_t sent = -1;
  int connected = -1;
  bool reached = false;
  {
    Beside beside([&] { sent = send(near, "beside", 6, MSG_NOSIGNAL); });
    reached = stepped(
        target, [&] { connected = connect_here(near); }, [&] { beside.go(); });
  }
  // A send on a socket without a connection: EPIPE, and the socket remembers nothing of it.
  expect(connected == 0, "connect", connected);
  int far = accept(g_listener, nullptr, nullptr);
  expect(send(near, "after", 5, 0) == 5, "send");
  close(near);
  bool in_order = false;
  std::string all = rest_of(far, &in_order);
  expect(all == std::string(sent == 6 ? "beside" : "") + "after" && in_order, all.c_str(), sent);
  close(far);
  return reached;
}

// The number becomes another connection's at that place: the call is on the one or on the other, as a
// whole, and both go on. `copy` is another number of the first one.
struct Replaced {
  Ends ends, others;
  int copy = dup(ends.near);
  ~Replaced() { close(copy); }
  void replace() { dup2(others.near, ends.near); }
};

bool dup2_beside_send(long target) {
  Replaced both;
  ssize_t sent = -1;
  bool reached = false;
  {
    Beside beside([&] { both.replace(); });
    reached = stepped(
        target, [&] { sent = send(both.ends.near, "data ", 5, 0); }, [&] { beside.go(); });
  }
  expect(sent == 5, "send", sent);
  expect(send(both.copy, "first", 5, 0) == 5, "send on the copy");
  expect(send(both.others.near, "second", 6, 0) == 6, "send on the other");
  both.ends.close_near();
  both.others.close_near();
  close(std::exchange(both.copy, -1));
  bool in_order = false, other_in_order = false;
  std::string first = rest_of(both.ends.far, &in_order);
  std::string second = rest_of(both.others.far, &other_in_order);
  expect(in_order && other_in_order, (first + " | " + second).c_str());
  expect((first == "data first" && second == "second") ||
             (first == "first" && second == "data second"),
         (first + " | " + second).c_str());
  return reached;
}

// The same of a call that sleeps, as there is no room until then.
bool dup2_beside_blocked_send(long target) {
  Replaced both;
  std::size_t before = 0;
  const std::string piece(4096, '.');
  for (ssize_t sent; (sent = send(both.ends.near, piece.data(), piece.size(), MSG_DONTWAIT)) > 0;)
    before += static_cast<std::size_t>(sent);
  std::string first;
  bool in_order = false;
  std::thread drain([&, sender = gettid()] {
    while (!is_asleep(sender)) sched_yield();
    first = rest_of(both.ends.far, &in_order);
  });
  ssize_t sent = -1;
  bool reached = false;
  {
    Beside beside([&] { both.replace(); });
    reached = stepped(
        target, [&] { sent = send(both.ends.near, "data ", 5, 0); }, [&] { beside.go(); });
  }
  expect(sent == 5, "send", sent);
  expect(send(both.copy, "first", 5, 0) == 5, "send on the copy");
  close(std::exchange(both.copy, -1));
  drain.join();
  expect(in_order, "the end");
  expect(first.size() > before, "what was sent before", static_cast<long>(before));
  first.erase(0, before);
  expect(first == "data first" || first == "first", first.c_str());
  expect(send(both.others.near, "second", 6, 0) == 6, "send on the other");
  both.ends.close_near();
  both.others.close_near();
  std::string second = rest_of(both.others.far, &in_order);
  expect(in_order && second == (first == "first" ? "data second" : "second"), second.c_str());
  return reached;
}

bool dup2_beside_recv(long target) {
  Replaced both;
  expect(send(both.ends.far, "first", 5, 0) == 5, "send");
  expect(send(both.others.far, "second", 6, 0) == 6, "send");
  for (int fd : {both.ends.near, both.others.near}) {
    pollfd waits{fd, POLLIN, 0};
    poll(&waits, 1, -1);
  }
  char data[16];
  ssize_t got = -1;
  bool reached = false;
  {
    Beside beside([&] { both.replace(); });
    reached = stepped(
        target, [&] { got = recv(both.ends.near, data, 8, 0); }, [&] { beside.go(); });
  }
  expect(got == 5 || got == 6, "recv", got);
  std::string was(data, static_cast<std::size_t>(got));
  expect(was == (got == 5 ? "first" : "second"), was.c_str());
  int left = got == 5 ? both.others.near : both.copy;
  expect(recv(left, data, sizeof data, 0) == 11 - got, "recv of the other");
  for (int fd : {both.ends.far, both.others.far}) {
    expect(send(fd, "more", 4, 0) == 4, "send of more");
  }
  for (int fd : {both.copy, both.others.near}) {
    expect(recv(fd, data, 4, MSG_WAITALL) == 4, "recv of more");
  }
  return reached;
}

constexpr struct {
  const char *name;
  bool (*go)(long target);
} kWays[] = {
    {"shutdown in shutdown", shutdown_in_shutdown},
    {"send in send", send_in_send},
    {"recv in recv", recv_in_recv},
    {"close in send", close_in_send},
    {"close in recv", close_in_recv},
    {"send beside close", send_beside_close},
    {"send beside dup2", send_beside_dup2},
    {"send beside connect", send_beside_connect},
    {"dup2 beside send", dup2_beside_send},
    {"dup2 beside recv", dup2_beside_recv},
    {"dup2 beside a send that blocks", dup2_beside_blocked_send},
};

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  listen_here();
  struct sigaction action {};
  action.sa_sigaction = on_trap;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER;
  sigaction(SIGTRAP, &action, nullptr);
  const long stride = std::atol(argv[2]);
  for (const auto &way : kWays) {
    if (std::string_view(argv[1]) != way.name) continue;
    // While it starts its helper inlay blocks all signals, and a thread that traps then is killed:
    // the helper lives as long as a connection.
    Ends keep;
    long target = 1 + stride / 2;
    while (way.go(target)) target += stride;
    std::printf("%ld\n", target);
    return 0;
  }
  return 2;
}
