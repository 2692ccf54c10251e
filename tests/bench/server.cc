// The bench's server: echo-blocking and sink serve one connection at a time with blocking calls,
// echo serves many from a level-triggered epoll loop. Prints "listening PORT" and runs until
// killed.
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/bench/protocol.h"
#include "tests/bench/stream.h"

namespace inlay::bench {
namespace {

[[noreturn]] void give_up(const char *what) {
  std::fprintf(stderr, "server: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

int listen_on(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  socklen_t length = sizeof address;
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(fd, reinterpret_cast<sockaddr *>(&address), length) != 0 || listen(fd, 1024) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length) != 0)
    give_up("listen");
  std::printf("listening %u\n", static_cast<unsigned>(ntohs(address.sin_port)));
  std::fflush(stdout);
  return fd;
}

Stream *accept_on(int listener, int flags) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | flags);
  if (fd < 0) return nullptr;
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return open_stream(fd);
}

bool write_all(Stream *stream, const char *data, std::size_t length) {
  while (length > 0) {
    const ssize_t written = stream_write(stream, data, length);
    if (written <= 0) return false;
    data += written;
    length -= static_cast<std::size_t>(written);
  }
  return true;
}

void echo_blocking(Stream *stream) {
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t got = stream_read(stream, buffer.data(), buffer.size());
    if (got <= 0 || !write_all(stream, buffer.data(), static_cast<std::size_t>(got))) return;
  }
}

void sink(Stream *stream) {
  std::vector<char> buffer(kBlock);
  std::uint64_t total = 0;
  bool last = false;
  for (;;) {
    const ssize_t got = stream_read(stream, buffer.data(), buffer.size());
    if (got <= 0) return;
    // A read of at most one block holds at most one block's first byte.
    const std::size_t start = static_cast<std::size_t>((kBlock - total % kBlock) % kBlock);
    if (start < static_cast<std::size_t>(got) && buffer[start] == 1) last = true;
    total += static_cast<std::uint64_t>(got);
    if (last && total % kBlock == 0) {
      write_all(stream, reinterpret_cast<const char *>(&total), sizeof total);
      return;
    }
  }
}

// One readable connection of the epoll loop: echoes what is there. False when it is over. The
// messages are so small that a send buffer never fills, so a short write is an error here.
bool echo_ready(Stream *stream) {
  std::array<char, 4096> buffer;
  do {
    const ssize_t got = stream_read(stream, buffer.data(), buffer.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (got <= 0) return false;
    if (stream_write(stream, buffer.data(), static_cast<std::size_t>(got)) != got) return false;
  } while (stream_pending(stream));
  return true;
}

[[noreturn]] void echo_epoll(int listener) {
  const int poller = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;  // the listener
  if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) != 0) give_up("epoll");
  std::array<epoll_event, 64> ready;
  for (;;) {
    const int count = epoll_wait(poller, ready.data(), static_cast<int>(ready.size()), -1);
    for (int i = 0; i < count; ++i) {
      auto *stream = static_cast<Stream *>(ready[static_cast<std::size_t>(i)].data.ptr);
      if (stream == nullptr) {
        Stream *accepted = accept_on(listener, SOCK_NONBLOCK);
        if (accepted == nullptr) continue;
        event.data.ptr = accepted;
        if (epoll_ctl(poller, EPOLL_CTL_ADD, stream_fd(accepted), &event) != 0) give_up("epoll");
      } else if (!echo_ready(stream)) {
        close_stream(stream);
      }
    }
  }
}

[[noreturn]] void usage() {
  std::fprintf(stderr,
               "usage: server echo|echo-blocking|sink [--port N] [--certificate F --key F "
               "--authority F] [--ciphersuite NAME] [--release-buffers]\n");
  std::exit(2);
}

}  // namespace

int serve(int argc, char **argv) {
  Credentials credentials;
  std::uint16_t port = 0;
  const std::array<option, 7> options{{{"port", required_argument, nullptr, 'p'},
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
  if (optind + 1 != argc) usage();
  const std::string mode = argv[optind];
  if (mode != "echo" && mode != "echo-blocking" && mode != "sink") usage();
  prepare_streams(credentials, true);
  const int listener = listen_on(port);
  if (mode == "echo") echo_epoll(listener);
  for (;;) {
    Stream *stream = accept_on(listener, 0);
    if (stream == nullptr) continue;
    if (mode == "sink") {
      sink(stream);
    } else {
      echo_blocking(stream);
    }
    close_stream(stream);
  }
}

}  // namespace inlay::bench

int main(int argc, char **argv) { return inlay::bench::serve(argc, argv); }
