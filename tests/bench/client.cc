// The bench's client. Prints one line of JSON:
//   ping-pong        --seconds S   blocking round trips of 64 bytes on one connection
//   ping-pong-epoll  --seconds S   the same, non-blocking under epoll
//   bulk             --seconds S   one stream of 64 KiB writes
//   connect          --seconds S   connection, HTTP request, reply, close, one after another
//   idle             --count N     holds connections after one message on each; see hold_idle()
#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/protocol.h"
#include "tests/bench/stream.h"

namespace inlay::bench {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void give_up(const char *what) {
  std::fprintf(stderr, "client: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

Stream *connect_to(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0)
    give_up("connect");
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return open_stream(fd);
}

void write_all(Stream *stream, const void *data, std::size_t length) {
  const char *next = static_cast<const char *>(data);
  while (length > 0) {
    const ssize_t written = stream_write(stream, next, length);
    if (written <= 0) give_up("write");
    next += written;
    length -= static_cast<std::size_t>(written);
  }
}

void read_all(Stream *stream, void *data, std::size_t length) {
  char *next = static_cast<char *>(data);
  while (length > 0) {
    const ssize_t got = stream_read(stream, next, length);
    if (got == 0) errno = ECONNRESET;
    if (got <= 0) give_up("read");
    next += got;
    length -= static_cast<std::size_t>(got);
  }
}

// Waits for readability instead of blocking in read, as an event loop does.
class Waiter {
 public:
  explicit Waiter(const Stream *stream) : poller_(epoll_create1(EPOLL_CLOEXEC)) {
    const int fd = stream_fd(stream);
    epoll_event event{};
    event.events = EPOLLIN;
    if (poller_ < 0 || epoll_ctl(poller_, EPOLL_CTL_ADD, fd, &event) != 0 ||
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
      give_up("epoll");
  }
  ~Waiter() { close(poller_); }
  Waiter(const Waiter &) = delete;
  Waiter &operator=(const Waiter &) = delete;

  void read_all(Stream *stream, char *data, std::size_t length) const {
    for (;;) {
      epoll_event event;
      if (!stream_pending(stream) && epoll_wait(poller_, &event, 1, -1) < 0) give_up("epoll_wait");
      const ssize_t got = stream_read(stream, data, length);
      if (got == 0) errno = ECONNRESET;
      if (got == 0 || (got < 0 && errno != EAGAIN)) give_up("read");
      if (got < 0) continue;
      data += got;
      length -= static_cast<std::size_t>(got);
      if (length == 0) return;
    }
  }

 private:
  int poller_;
};

// Durations of single operations, in nanoseconds.
class Samples {
 public:
  Samples() { samples_.reserve(1 << 20); }
  void add(Clock::duration duration) {
    samples_.push_back(static_cast<std::uint64_t>(duration.count()));
  }
  void print(Clock::duration elapsed) {
    std::sort(samples_.begin(), samples_.end());
    const double nanoseconds = static_cast<double>(elapsed.count());
    std::printf(
        "{\"operations\": %zu, \"seconds\": %.6f, \"mean_us\": %.4f, \"p50_us\": %.3f, "
        "\"p99_us\": %.3f}\n",
        samples_.size(), nanoseconds / 1e9,
        nanoseconds / 1e3 / static_cast<double>(samples_.size()), quantile(0.5), quantile(0.99));
  }

 private:
  double quantile(double part) const {
    const auto index = static_cast<std::size_t>(part * static_cast<double>(samples_.size() - 1));
    return static_cast<double>(samples_[index]) / 1e3;
  }
  std::vector<std::uint64_t> samples_;
};

void ping_pong(std::uint16_t port, Clock::duration duration, bool with_epoll) {
  Stream *stream = connect_to(port);
  std::array<char, kPing> message{};
  write_all(stream, message.data(), message.size());  // the handshake is not what is measured
  read_all(stream, message.data(), message.size());
  const Waiter *waiter = with_epoll ? new Waiter(stream) : nullptr;
  Samples samples;
  const auto begin = Clock::now();
  auto now = begin;
  while (now - begin < duration) {
    write_all(stream, message.data(), message.size());
    if (waiter != nullptr) {
      waiter->read_all(stream, message.data(), message.size());
    } else {
      read_all(stream, message.data(), message.size());
    }
    const auto after = Clock::now();
    samples.add(after - now);
    now = after;
  }
  samples.print(now - begin);
  delete waiter;
  close_stream(stream);
}

void bulk(std::uint16_t port, Clock::duration duration) {
  Stream *stream = connect_to(port);
  std::vector<char> block(kBlock);
  write_all(stream, block.data(), block.size());
  std::uint64_t sent = 0;
  const auto begin = Clock::now();
  while (block[0] == 0) {
    if (Clock::now() - begin >= duration) block[0] = 1;
    write_all(stream, block.data(), block.size());
    sent += block.size();
  }
  std::uint64_t received = 0;
  read_all(stream, &received, sizeof received);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (received != sent + kBlock) {
    std::fprintf(stderr, "client: the server got %llu bytes of %llu\n",
                 static_cast<unsigned long long>(received),
                 static_cast<unsigned long long>(sent + kBlock));
    std::exit(1);
  }
  std::printf("{\"bytes\": %llu, \"seconds\": %.6f}\n", static_cast<unsigned long long>(sent),
              seconds);
  close_stream(stream);
}

void connect_each(std::uint16_t port, Clock::duration duration) {
  constexpr std::string_view request = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
  constexpr std::string_view good = "HTTP/1.1 200 ";
  Samples samples;
  const auto begin = Clock::now();
  auto now = begin;
  while (now - begin < duration) {
    Stream *stream = connect_to(port);
    write_all(stream, request.data(), request.size());
    std::array<char, 4096> reply;
    std::size_t length = 0;
    for (;;) {
      const ssize_t got = stream_read(stream, reply.data() + length, reply.size() - length);
      if (got < 0) give_up("read");
      if (got == 0) break;
      length += static_cast<std::size_t>(got);
    }
    if (!std::string_view(reply.data(), length).starts_with(good)) {
      std::fprintf(stderr, "client: no good reply, but %zu bytes\n", length);
      std::exit(1);
    }
    close_stream(stream);
    const auto after = Clock::now();
    samples.add(after - now);
    now = after;
  }
  samples.print(now - begin);
}

// Step by step with the driver, which measures the processes' memory at "one" and at "holding":
// opens one connection, says "one", waits for a line, opens `count` more, says "holding", waits for
// a line, leaves.
void hold_idle(std::uint16_t port, unsigned long count) {
  std::vector<Stream *> streams;
  streams.reserve(count + 1);
  const auto add = [&] {
    streams.push_back(connect_to(port));
    char byte = 0;
    write_all(streams.back(), &byte, 1);
    read_all(streams.back(), &byte, 1);
  };
  const auto say_and_wait = [](const char *what) {
    std::puts(what);
    std::fflush(stdout);
    while (std::getchar() > '\n') continue;  // EOF is below '\n'
  };
  add();
  say_and_wait("one");
  for (unsigned long i = 0; i < count; ++i) add();
  say_and_wait("holding");
  for (Stream *stream : streams) close_stream(stream);
}

[[noreturn]] void usage() {
  std::fprintf(stderr,
               "usage: client ping-pong|ping-pong-epoll|bulk|connect|idle --port N [--seconds S] "
               "[--count N] [--certificate F --key F --authority F] [--ciphersuite NAME] "
               "[--release-buffers]\n");
  std::exit(2);
}

}  // namespace

int run(int argc, char **argv) {
  Credentials credentials;
  std::uint16_t port = 0;
  double seconds = 1;
  unsigned long count = 1000;
  const std::array<option, 9> options{{{"port", required_argument, nullptr, 'p'},
                                       {"seconds", required_argument, nullptr, 't'},
                                       {"count", required_argument, nullptr, 'n'},
                                       {"certificate", required_argument, nullptr, 'c'},
                                       {"key", required_argument, nullptr, 'k'},
                                       {"authority", required_argument, nullptr, 'a'},
                                       {"ciphersuite", required_argument, nullptr, 's'},
                                       {"release-buffers", no_argument, nullptr, 'r'},
                                       {nullptr, 0, nullptr, 0}}};
  for (int choice; (choice = getopt_long(argc, argv, "", options.data(), nullptr)) != -1;) {
    switch (choice) {
      case 'p':
        port = static_cast<std::uint16_t>(std::strtoul(optarg, nullptr, 10));
        break;
      case 't':
        seconds = std::strtod(optarg, nullptr);
        break;
      case 'n':
        count = std::strtoul(optarg, nullptr, 10);
        break;
      case 'c':
        credentials.certificate = optarg;
        break;
      case 'k':
        credentials.key = optarg;
        break;
      case 'a':
        credentials.authority = optarg;
        break;
      case 's':
        credentials.ciphersuite = optarg;
        break;
      case 'r':
        credentials.release_buffers = true;
        break;
      default:
        usage();
    }
  }
  if (optind + 1 != argc || port == 0) usage();
  const std::string mode = argv[optind];
  const auto duration =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  prepare_streams(credentials, false);
  if (mode == "ping-pong" || mode == "ping-pong-epoll") {
    ping_pong(port, duration, mode == "ping-pong-epoll");
  } else if (mode == "bulk") {
    bulk(port, duration);
  } else if (mode == "connect") {
    connect_each(port, duration);
  } else if (mode == "idle") {
    hold_idle(port, count);
  } else {
    usage();
  }
  return 0;
}

}  // namespace inlay::bench

int main(int argc, char **argv) { return inlay::bench::run(argc, argv); }
