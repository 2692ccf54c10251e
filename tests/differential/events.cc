// poll, select and epoll, level- and edge-triggered.
#include "behaviour.h"

using namespace behaviour;

namespace {

unsigned g_state = 1;
std::size_t some_number(std::size_t below) {
  g_state = g_state * 1103515245u + 12345u;
  return 1 + (g_state >> 8) % below;
}

void send_big(std::uint16_t port) {
  int fd = dial(port);
  std::string bytes = pattern(2'000'000);
  for (std::size_t at = 0; at < bytes.size();) {
    std::size_t length = std::min(some_number(70000), bytes.size() - at);
    if (!send_all(fd, std::string_view(bytes).substr(at, length))) break;
    at += length;
  }
}

// Edge-triggered: reads of random sizes until EAGAIN, then waits for the next edge.
Scenario edges{"events/edge-until-eagain",
               [](int listener) {
                 int fd = take(listener);
                 make_nonblocking(fd);
                 int epoll = epoll_create1(0);
                 epoll_event event{EPOLLIN | EPOLLET, {.fd = fd}};
                 note("add", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
                 std::string all;
                 char buffer[50000];
                 for (bool open = true; open;) {
                   if (epoll_wait(epoll, &event, 1, -1) != 1) break;
                   for (;;) {
                     ssize_t got = recv(fd, buffer, some_number(sizeof(buffer)), 0);
                     if (got > 0) {
                       all.append(buffer, static_cast<std::size_t>(got));
                       continue;
                     }
                     if (got < 0 && errno == EAGAIN) break;
                     note("ended with", got);
                     open = false;
                     break;
                   }
                 }
                 note_data("all", all);
               },
               send_big};

// Edge-triggered, taking a short count for "drained" as epoll(7) allows.
Scenario short_counts{"events/edge-short-count",
                      [](int listener) {
                        int fd = take(listener);
                        make_nonblocking(fd);
                        int epoll = epoll_create1(0);
                        epoll_event event{EPOLLIN | EPOLLET | EPOLLRDHUP, {.fd = fd}};
                        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                        std::string all;
                        char buffer[20000];
                        for (bool open = true; open;) {
                          if (epoll_wait(epoll, &event, 1, -1) != 1) break;
                          for (;;) {
                            ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
                            if (got > 0) all.append(buffer, static_cast<std::size_t>(got));
                            if (got == 0) open = false;
                            // With the end announced one goes on until it is read.
                            if (got <= 0 || (static_cast<std::size_t>(got) < sizeof(buffer) &&
                                             (event.events & EPOLLRDHUP) == 0)) {
                              break;
                            }
                          }
                        }
                        note_data("all", all);
                      },
                      send_big};

// A level-triggered loop with many connections coming up at once: what inlay has to read first
// wakes it a few times for each, not all the time until it is read.
Scenario many_at_once{"events/woken-for-nothing",
                      [](int listener) {
                        constexpr int kConnections = 32;
                        int epoll = epoll_create1(0);
                        for (int i = 0; i < kConnections; ++i) {
                          int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
                          epoll_event event{EPOLLIN, {.fd = fd}};
                          epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                        }
                        int answered = 0;
                        int for_nothing = 0;
                        while (answered < kConnections) {
                          epoll_event event{};
                          if (epoll_wait(epoll, &event, 1, -1) != 1) break;
                          char byte;
                          ssize_t got = read(event.data.fd, &byte, 1);
                          if (got < 0) ++for_nothing;
                          if (got == 1) ++answered;
                        }
                        note("answered", answered);
                        note("woken more than 8 times for each for nothing",
                             for_nothing > 8 * kConnections ? for_nothing : 0);
                        meet();
                      },
                      [](std::uint16_t port) {
                        int fds[32];
                        for (int &fd : fds) fd = dial(port);
                        for (int fd : fds) send_all(fd, "x");
                        meet();  // the end of a stream can not be hidden
                      }};

Scenario edge_writer{"events/edge-writer",
                     [](int listener) {
                       int fd = take(listener);
                       note_rest(fd, 5000);
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       make_nonblocking(fd);
                       int epoll = epoll_create1(0);
                       epoll_event event{EPOLLOUT | EPOLLET, {.fd = fd}};
                       epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                       std::string bytes = pattern(6'000'000);
                       std::size_t sent = 0;
                       while (sent < bytes.size()) {
                         if (epoll_wait(epoll, &event, 1, -1) != 1) break;
                         while (sent < bytes.size()) {
                           ssize_t got =
                               send(fd, bytes.data() + sent,
                                    std::min(some_number(200000), bytes.size() - sent), 0);
                           if (got < 0) {
                             if (errno != EAGAIN) note("send", got);
                             break;
                           }
                           sent += static_cast<std::size_t>(got);
                         }
                       }
                       note("sent", static_cast<long>(sent));
                     }};

// Registered before the connection is made, as clients of event loops do.
Scenario edge_client{"events/edge-from-the-start",
                     [](int listener) {
                       int fd = take(listener);
                       note_data("request", receive_exactly(fd, 7));
                       send_all(fd, pattern(500000));
                     },
                     [](std::uint16_t port) {
                       int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
                       int epoll = epoll_create1(0);
                       sockaddr_in address = address_of(port);
                       note("connect",
                            connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)));
                       epoll_event event{EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.fd = fd}};
                       epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                       std::string all;
                       bool asked = false;
                       for (bool open = true; open;) {
                         if (epoll_wait(epoll, &event, 1, -1) != 1) break;
                         if (!asked && (event.events & EPOLLOUT) != 0) {
                           asked = send(fd, "request", 7, 0) == 7;
                         }
                         char buffer[4096];
                         ssize_t got;
                         while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
                           all.append(buffer, static_cast<std::size_t>(got));
                         }
                         if (got == 0 || errno != EAGAIN) open = false;
                       }
                       note("asked", asked);
                       note_data("all", all);
                     }};

// Many connections in one level-triggered loop, each echoed to its end.
Scenario level{"events/level-echo-server",
               [](int listener) {
                 int epoll = epoll_create1(0);
                 make_nonblocking(listener);
                 epoll_event event{EPOLLIN, {.fd = listener}};
                 epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
                 int ended = 0;
                 std::size_t echoed = 0;
                 while (ended < 8) {
                   epoll_event ready[16];
                   int count = epoll_wait(epoll, ready, 16, -1);
                   for (int i = 0; i < count; ++i) {
                     int fd = ready[i].data.fd;
                     if (fd == listener) {
                       int fresh = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
                       if (fresh < 0) continue;
                       event.data.fd = fresh;
                       epoll_ctl(epoll, EPOLL_CTL_ADD, fresh, &event);
                       continue;
                     }
                     char buffer[1000];
                     ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
                     if (got > 0) {
                       if (send(fd, buffer, static_cast<std::size_t>(got), 0) == got) {
                         echoed += static_cast<std::size_t>(got);
                       }
                     } else if (got == 0 || errno != EAGAIN) {
                       close(fd);
                       ++ended;
                     }
                   }
                 }
                 note("echoed", static_cast<long>(echoed));
               },
               [](std::uint16_t port) {
                 int fds[8];
                 for (int &fd : fds) fd = dial(port);
                 int good = 0;
                 for (unsigned round = 0; round < 5; ++round) {
                   for (int &fd : fds) send_all(fd, pattern(900, round));
                   for (int &fd : fds) good += receive_exactly(fd, 900) == pattern(900, round);
                 }
                 note("good", good);
               }};

// A blocking server that trusts select: it must never block in a read select promised.
Scenario selecting{"events/select-then-blocking-read",
                   [](int listener) {
                     int fd = take(listener);
                     std::string all;
                     char buffer[777];
                     for (;;) {
                       fd_set set;
                       FD_ZERO(&set);
                       FD_SET(fd, &set);
                       if (select(fd + 1, &set, nullptr, nullptr, nullptr) != 1) break;
                       ssize_t got = read(fd, buffer, sizeof(buffer));
                       if (got <= 0) break;
                       all.append(buffer, static_cast<std::size_t>(got));
                     }
                     note_data("all", all);
                   },
                   [](std::uint16_t port) {
                     int fd = dial(port);
                     for (unsigned i = 0; i < 50; ++i) send_all(fd, pattern(some_number(9000), i));
                   }};

Scenario states{"events/poll-states",
                [](int listener) {
                  int fd = take(listener);
                  note_data("hello", receive_exactly(fd, 5));
                  pollfd one{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
                  note("idle", poll(&one, 1, 0));
                  note("events", one.revents);
                  meet();
                  wait_for(fd, POLLIN);
                  note("data", poll(&one, 1, 0));
                  note("events", one.revents);
                  char c;
                  note("recv", recv(fd, &c, 1, 0));
                  note("more data", poll(&one, 1, 0));
                  note("events", one.revents);
                  note("recv", recv(fd, &c, 1, 0));
                  note("no more", poll(&one, 1, 0));
                  note("events", one.revents);
                  meet();
                  note("half closed", wait_for(fd, POLLRDHUP));
                  poll(&one, 1, -1);
                  note("events", one.revents);
                  note("recv", recv(fd, &c, 1, 0));
                  note("shutdown", shutdown(fd, SHUT_WR));
                  note("hung up", wait_for(fd, POLLHUP));
                  poll(&one, 1, -1);
                  note("events", one.revents);
                  meet();
                },
                [](std::uint16_t port) {
                  int fd = dial(port);
                  send_all(fd, "hello");
                  meet();
                  send_all(fd, "ab");
                  meet();
                  shutdown(fd, SHUT_WR);
                  meet();
                }};

// Bytes are still owed, and the peer's end comes meanwhile: of the number there is nothing to tell.
Scenario gone_and_owing{"events/closed-with-bytes-owed-leaves-the-set",
                        [](int listener) {
                          int fd = take(listener);
                          char c;
                          note("recv", recv(fd, &c, 1, 0));
                          meet();
                          note("end", shutdown(fd, SHUT_WR));
                          tcp_info info{};
                          socklen_t length = sizeof info;
                          do {
                            getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length);
                          } while (info.tcpi_state == TCP_FIN_WAIT1);
                          meet();
                          meet();
                          std::string rest(1 << 16, '\0');
                          while (recv(fd, rest.data(), rest.size(), 0) > 0) {
                          }
                        },
                        [](std::uint16_t port) {
                          int fd = dial(port);
                          send_all(fd, "x");
                          make_nonblocking(fd);
                          const std::string piece(65536, '.');
                          pollfd room{fd, POLLOUT, 0};
                          do {
                            while (send(fd, piece.data(), piece.size(), 0) > 0) {
                            }
                          } while (poll(&room, 1, 100) > 0);
                          int sets[2] = {epoll_create1(0), epoll_create1(0)};
                          for (int set : sets) {
                            epoll_event event{};
                            event.events = EPOLLIN | EPOLLRDHUP;
                            note("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
                          }
                          note("close", close(fd));
                          meet();
                          meet();
                          for (int set : sets) {
                            epoll_event event{};
                            note("told", epoll_wait(set, &event, 1, 0));
                          }
                          meet();
                        }};

Scenario gone{"events/closed-leaves-the-set",
              [](int listener) {
                int fd = take(listener);
                int epoll = epoll_create1(0);
                epoll_event event{EPOLLIN, {.fd = fd}};
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                note_data("hello", receive_exactly(fd, 5));
                send_all(fd, "x");
                note("close", close(fd));
                note("mod", epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
                meet();
                note("wait", epoll_wait(epoll, &event, 1, 0));
              },
              [](std::uint16_t port) {
                int fd = dial(port);
                send_all(fd, "hello");
                note_rest(fd);
                send_all(fd, "y");
                meet();
              }};

// Signal-driven (fcntl(2), F_SETSIG): a queued signal for what comes, then reads until EAGAIN. The
// signal for bytes that were inlay's own must not be the last one for the program's behind them.
void read_by_signals(int listener, int of) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  sigaddset(&set, SIGIO);  // the queue of the other one is full
  sigprocmask(SIG_BLOCK, &set, nullptr);
  int fd = take(listener);
  note("owner", fcntl(fd, F_SETOWN, getpid()));
  note("signal", fcntl(fd, F_SETSIG, SIGRTMIN));
  note("asynchronous", fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
  note("its flags", fcntl(fd, F_GETFL) & (O_ASYNC | O_NONBLOCK));
  note("at the mark", sockatmark(fd));
  std::string all;
  char buffer[20000];
  for (bool open = true; open;) {
    ssize_t got = 0;
    while ((got = recv(fd, buffer, static_cast<std::size_t>(of), 0)) > 0) {
      all.append(buffer, static_cast<std::size_t>(got));
    }
    if (got == 0 || errno != EAGAIN) {
      note("ended with", got);
      open = false;
    } else {
      siginfo_t info;
      sigwaitinfo(&set, &info);
    }
  }
  note_data("all", all);
}
Scenario by_signals{"events/signal-driven", [](int listener) { read_by_signals(listener, 20000); },
                    send_big};
Scenario by_signals_first{"events/signal-driven-from-the-start",
                          [](int listener) { read_by_signals(listener, 3); },
                          [](std::uint16_t port) {
                            int fd = dial(port);
                            send_all(fd, "at once, with the end of the handshake");
                          }};

}  // namespace
