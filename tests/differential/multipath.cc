// Multipath TCP: one socket over several connections of the kernel's, made as programs do that ask for no
// more than that (IPPROTO_MPTCP); to a peer that has it too, and to one that has not. Where the kernel has
// none, every socket() fails alike.
#include "behaviour.h"

using namespace behaviour;

namespace {

#ifndef IPPROTO_MPTCP
constexpr int IPPROTO_MPTCP = 262;
#endif
constexpr int kMultipathLevel = 284;  // SOL_MPTCP
constexpr int kMultipathInfo = 1;     // MPTCP_INFO
constexpr std::size_t kMuch = 600000;

int multipath_socket() {
  int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
  note("socket", fd >= 0 ? 0 : -1);
  return fd;
}

int multipath_listener() {
  int fd = multipath_socket();
  sockaddr_in address = address_of(0);
  note("bind", bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address));
  note("listen", listen(fd, 8));
  socklen_t length = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
  tell(ntohs(address.sin_port));
  return fd;
}

int dial_multipath(std::uint16_t port) {
  int fd = multipath_socket();
  sockaddr_in address = address_of(port);
  note("connect", connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address));
  return fd;
}

void note_options(int fd) {
  int value = -1;
  socklen_t length = sizeof value;
  note("SO_PROTOCOL", getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &length));
  note("protocol", value);
  value = 1;
  note("TCP_NODELAY", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
  tcp_info info{};
  length = sizeof info;
  note("TCP_INFO", getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("state", info.tcpi_state);
  char multipath[512];
  length = sizeof multipath;
  note("MPTCP_INFO", getsockopt(fd, kMultipathLevel, kMultipathInfo, multipath, &length));
  note("error", (length = sizeof value, getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &length)));
}

void talk_first(int fd) {
  note_options(fd);
  note("sent", send_all(fd, pattern(kMuch, 3)));
  say("answer", receive_exactly(fd, 6));
  note("shutdown", shutdown(fd, SHUT_WR));
  note_rest(fd);
  note("close", close(fd));
}

void answer(int fd) {
  char peeked[10];
  note("peek", recv(fd, peeked, sizeof peeked, MSG_PEEK | MSG_WAITALL));
  note_data("peeked", {peeked, sizeof peeked});
  note("discard", recv(fd, nullptr, 10, MSG_TRUNC | MSG_WAITALL));
  note_data("got", receive_exactly(fd, kMuch - 10));
  note_options(fd);
  note("sent", send_all(fd, "answer"));
  note_rest(fd);
  note("close", close(fd));
}

Scenario both{"multipath/both-ends",
              [](int) {
                int listener = multipath_listener();
                answer(accept(listener, nullptr, nullptr));
              },
              [](std::uint16_t) { talk_first(dial_multipath(static_cast<std::uint16_t>(told()))); }};

Scenario one{"multipath/to-a-peer-without", [](int listener) { answer(take(listener)); },
             [](std::uint16_t port) { talk_first(dial_multipath(port)); }};

Scenario other{"multipath/from-a-peer-without",
               [](int) {
                 int listener = multipath_listener();
                 answer(accept(listener, nullptr, nullptr));
               },
               [](std::uint16_t) { talk_first(dial(static_cast<std::uint16_t>(told()))); }};

Scenario events{"multipath/epoll",
                [](int) {
                  int listener = multipath_listener();
                  int fd = accept(listener, nullptr, nullptr);
                  make_nonblocking(fd);
                  note("events", wait_for(fd, POLLIN));
                  int epoll = epoll_create1(0);
                  epoll_event event{EPOLLIN | EPOLLRDHUP, {}};
                  note("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
                  std::string all;
                  char buffer[10000];
                  for (ssize_t got = -1; got != 0;) {
                    epoll_wait(epoll, &event, 1, -1);
                    while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0) {
                      all.append(buffer, static_cast<std::size_t>(got));
                    }
                  }
                  note_data("all", all);
                  close(fd);
                },
                [](std::uint16_t) {
                  int fd = dial_multipath(static_cast<std::uint16_t>(told()));
                  note("sent", send_all(fd, pattern(kMuch, 4)));
                  note("shutdown", shutdown(fd, SHUT_WR));
                  note_rest(fd);
                  close(fd);
                }};

Scenario refused{"multipath/nobody-listens", [](int) { meet(); },
                 [](std::uint16_t) {
                   std::uint16_t port = 0;
                   close(listen_anywhere(&port));
                   dial_multipath(port);
                   meet();
                 }};

}  // namespace
