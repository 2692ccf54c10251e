// What readiness is besides poll and epoll of one socket: one-shot, exclusive, nested sets, many
// descriptors, queue sizes, and flags that change in the middle.
#include <linux/sockios.h>

#include <thread>

#include "behaviour.h"

using namespace behaviour;

namespace {

void talk_on_cue(std::uint16_t port) {
  int fd = dial(port);
  for (int i = 0; i < 3; ++i) {
    told();
    send_all(fd, pattern(10, static_cast<unsigned>(i)));
  }
  told();
  close(fd);
}

Scenario one_shot{"readiness/one-shot",
                  [](int listener) {
                    int fd = take(listener);
                    make_nonblocking(fd);
                    int epoll = epoll_create1(0);
                    epoll_event event{EPOLLIN | EPOLLONESHOT, {.fd = fd}};
                    note("add", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
                    for (int i = 0; i < 3; ++i) {
                      tell(0);
                      note("woken", epoll_wait(epoll, &event, 1, -1));
                      // Disarmed: what is there is not told again.
                      note("again", epoll_wait(epoll, &event, 1, 0));
                      note_data("data", receive_exactly(fd, 10));
                      event = {EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, {.fd = fd}};
                      note("arm", epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
                    }
                    tell(0);
                    note("woken", epoll_wait(epoll, &event, 1, -1));
                    note("events", event.events);
                    char c;
                    note("end", recv(fd, &c, 1, 0));
                  },
                  talk_on_cue};

Scenario nested{"readiness/nested-sets",
                [](int listener) {
                  int fd = take(listener);
                  make_nonblocking(fd);
                  int inner = epoll_create1(0), outer = epoll_create1(0);
                  epoll_event event{EPOLLIN, {.fd = fd}};
                  epoll_ctl(inner, EPOLL_CTL_ADD, fd, &event);
                  event = {EPOLLIN, {.fd = inner}};
                  note("nest", epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event));
                  for (int i = 0; i < 3; ++i) {
                    tell(0);
                    std::string all;
                    while (all.size() < 10) {
                      if (epoll_wait(outer, &event, 1, -1) != 1 || event.data.fd != inner) break;
                      if (epoll_wait(inner, &event, 1, 0) != 1) continue;
                      char buffer[20];
                      ssize_t got = recv(fd, buffer, sizeof buffer, 0);
                      if (got > 0) all.append(buffer, static_cast<std::size_t>(got));
                    }
                    note_data("data", all);
                    note("quiet", epoll_wait(outer, &event, 1, 0));
                  }
                  tell(0);
                  note("end", epoll_wait(outer, &event, 1, -1));
                  char c;
                  note("recv", recv(fd, &c, 1, 0));
                },
                talk_on_cue};

// Two sets wait for one socket, both exclusive: at least one is woken, nobody twice for one event.
Scenario exclusive{"readiness/exclusive",
                   [](int listener) {
                     int fd = take(listener);
                     make_nonblocking(fd);
                     int sets[2] = {epoll_create1(0), epoll_create1(0)};
                     for (int set : sets) {
                       epoll_event event{EPOLLIN | EPOLLEXCLUSIVE, {.fd = fd}};
                       note("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
                     }
                     for (int i = 0; i < 3; ++i) {
                       tell(0);
                       pollfd both[2] = {{sets[0], POLLIN, 0}, {sets[1], POLLIN, 0}};
                       std::string all;
                       while (all.size() < 10 && poll(both, 2, -1) > 0) {
                         char buffer[20];
                         ssize_t got = recv(fd, buffer, sizeof buffer, 0);
                         if (got > 0) all.append(buffer, static_cast<std::size_t>(got));
                       }
                       note_data("data", all);
                     }
                     tell(0);
                     fcntl(fd, F_SETFL, 0);
                     note_rest(fd);
                   },
                   talk_on_cue};

// select() with a set for numbers above FD_SETSIZE, as some programs build their own.
Scenario large_select{"readiness/select-above-1024",
                      [](int listener) {
                        int taken = take(listener);
                        int fd = fcntl(taken, F_DUPFD, 1500);
                        note("high", fd >= 1500);
                        close(taken);
                        unsigned long bits[4096 / (8 * sizeof(long))] = {};
                        constexpr int kBits = 8 * sizeof(long);
                        bits[fd / kBits] |= 1ul << (fd % kBits);
                        tell(0);
                        note("select", select(fd + 1, reinterpret_cast<fd_set *>(bits), nullptr,
                                              nullptr, nullptr));
                        note("set", (bits[fd / kBits] >> (fd % kBits)) & 1);
                        note_data("data", receive_exactly(fd, 10));
                        for (int i = 0; i < 3; ++i) tell(0);
                        note_rest(fd);
                      },
                      talk_on_cue};

Scenario queues{"readiness/queue-sizes",
                [](int listener) {
                  int fd = take(listener);
                  receive_exactly(fd, 1);
                  int size = 0;
                  note("FIONREAD", ioctl(fd, FIONREAD, &size));
                  note("nothing", size);
                  meet();
                  wait_for(fd, POLLIN);
                  note("SIOCINQ", ioctl(fd, SIOCINQ, &size));
                  note("at least something", size > 0 && size <= 5000 + 3);
                  note_data("data", receive_exactly(fd, 5000));
                  note("FIONREAD", ioctl(fd, FIONREAD, &size));
                  note("nothing", size);
                  send_all(fd, "x");
                  meet();
                },
                [](std::uint16_t port) {
                  int fd = dial(port);
                  send_all(fd, "!");
                  meet();
                  send_all(fd, pattern(5000));
                  receive_exactly(fd, 1);
                  int size = -1;
                  // All is acknowledged: its answer has been read.
                  note("SIOCOUTQ", ioctl(fd, SIOCOUTQ, &size));
                  note("left", size);
                  tcp_info info{};
                  socklen_t length = sizeof info;
                  note("TCP_INFO", getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
                  note("state", info.tcpi_state);
                  meet();
                }};

Scenario toggled{"readiness/blocking-mode-toggled",
                 [](int listener) {
                   int fd = take(listener);
                   char c;
                   make_nonblocking(fd);
                   note("nothing yet", recv(fd, &c, 1, 0));
                   int off = 0, on = 1;
                   note("blocking", ioctl(fd, FIONBIO, &off));
                   tell(0);
                   note_data("waited for", receive_exactly(fd, 10));
                   note("not", ioctl(fd, FIONBIO, &on));
                   note("nothing", recv(fd, &c, 1, 0));
                   note("blocking", fcntl(fd, F_SETFL, 0));
                   tell(0);
                   note_data("waited for", receive_exactly(fd, 10));
                   tell(0);
                   tell(0);
                   note_rest(fd);
                 },
                 talk_on_cue};

Scenario accept_flags{"readiness/accept4-flags",
                      [](int listener) {
                        int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
                        note("nonblocking", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
                        note("close on exec", fcntl(fd, F_GETFD));
                        char c;
                        note("nothing", recv(fd, &c, 1, 0));
                        note("bad flags", accept4(listener, nullptr, nullptr, 0x12345678));
                        sockaddr_in peer{};
                        socklen_t length = 4;  // cut short, as accept may
                        meet();
                        int second = accept(listener, reinterpret_cast<sockaddr *>(&peer), &length);
                        note("second", second >= 0);
                        note("length", length);
                        note("family", peer.sin_family);
                        note("blocking", fcntl(second, F_GETFL) & O_NONBLOCK);
                        meet();
                      },
                      [](std::uint16_t port) {
                        int fd = dial(port);
                        meet();
                        int second = dial(port, SOCK_CLOEXEC);
                        note("close on exec", fcntl(second, F_GETFD));
                        note("sent", send_all(fd, "x") && send_all(second, "x"));
                        meet();
                      }};

// A stack of 16 KiB, the least glibc gives a thread: every call must do on it.
void *on_a_small_stack(void *argument) {
  int fd = *static_cast<int *>(argument);
  call_myself("small");
  note("send", send_all(fd, pattern(300'000)));
  note_data("echo", receive_exactly(fd, 300'000));
  char buffer[64];
  iovec part{buffer, sizeof buffer};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  note("nothing", recvmsg(fd, &message, MSG_DONTWAIT));
  note("close", close(fd));
  return nullptr;
}

Scenario small_stack{"readiness/16-KiB-of-stack",
                     [](int listener) {
                       int fd = take(listener);
                       std::string all = receive_exactly(fd, 300'000);
                       send_all(fd, all);
                       note_rest(fd);
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       pthread_attr_t attributes;
                       pthread_attr_init(&attributes);
                       note("stack", pthread_attr_setstacksize(&attributes, 16384));
                       pthread_t thread;
                       note("thread", pthread_create(&thread, &attributes, on_a_small_stack, &fd));
                       pthread_join(thread, nullptr);
                     }};

Scenario linger{"readiness/linger-with-time",
                [](int listener) {
                  int fd = take(listener);
                  meet();
                  note_rest(fd);
                },
                [](std::uint16_t port) {
                  int fd = dial(port);
                  struct linger value {1, 20};
                  note("linger", setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, sizeof value));
                  note("sent", send_all(fd, pattern(200'000)));
                  meet();
                  note("close", close(fd));  // returns when all is out
                }};

Scenario to_itself{"readiness/connected-to-itself", nullptr, [](std::uint16_t) {
                     int fd = socket(AF_INET, SOCK_STREAM, 0);
                     sockaddr_in address = address_of(0);
                     bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address);
                     socklen_t length = sizeof address;
                     getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
                     // A simultaneous open with itself (RFC 9293 §3.5).
                     note("connect",
                          connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address));
                     note("send", send(fd, "to myself", 9, MSG_NOSIGNAL | MSG_DONTWAIT));
                   }};

}  // namespace
