// What is written before the session is up, corked data, jumps out of handlers.
#include <setjmp.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

void hear_all(int listener) {
  int fd = take(listener);
  note_rest(fd);
}

// More than any buffer of early data holds: the blocking writer waits, as it would for a window.
Scenario early_more{"early/more-than-fits",
                    [](int listener) {
                      meet();
                      int fd = take(listener);
                      note_rest(fd);
                    },
                    [](std::uint16_t port) {
                      int fd = dial(port);
                      meet();
                      note("sent", send_all(fd, pattern(8 << 20)));
                      note("close", close(fd));
                    }};

Scenario early_nonblocking{
    "early/nonblocking-more-than-fits",
    [](int listener) {
      meet();
      int fd = take(listener);
      note_rest(fd);
    },
    [](std::uint16_t port) {
      int fd = dial(port);
      make_nonblocking(fd);
      int epoll = epoll_create1(0);
      epoll_event event{EPOLLOUT | EPOLLET, {.fd = fd}};
      epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
      std::string bytes = pattern(8 << 20);
      std::size_t sent = 0;
      bool met = false;
      while (sent < bytes.size()) {
        if (epoll_wait(epoll, &event, 1, -1) != 1) break;
        ssize_t got;
        while (sent < bytes.size() &&
               (got = send(fd, bytes.data() + sent, bytes.size() - sent, 0)) > 0) {
          sent += static_cast<std::size_t>(got);
        }
        if (!met) meet();  // full: only now is it accepted
        met = true;
      }
      note("sent", static_cast<long>(sent));
    }};

Scenario early_poll{"early/readiness-while-nobody-accepts",
                    [](int listener) {
                      meet();
                      int fd = take(listener);
                      note_data("heard", receive_exactly(fd, 4));
                      send_all(fd, "answer");
                      meet();
                    },
                    [](std::uint16_t port) {
                      int fd = dial(port);
                      pollfd one{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
                      note("poll", poll(&one, 1, 0));
                      note("events", one.revents);
                      int available = -1;
                      note("FIONREAD", ioctl(fd, FIONREAD, &available));
                      note("available", available);
                      char c;
                      note("recv", recv(fd, &c, 1, MSG_DONTWAIT));
                      note("peek", recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK));
                      note("send", send(fd, "four", 4, 0));
                      meet();
                      meet();
                      note_data("answer", receive_exactly(fd, 6));
                    }};

Scenario early_sendfile{
    "early/writev-and-dup",
    [](int listener) {
      meet();
      int fd = take(listener);
      note_rest(fd);
    },
    [](std::uint16_t port) {
      int fd = dial(port);
      std::string text = "one two three";
      iovec parts[3] = {{text.data(), 4}, {text.data() + 4, 4}, {text.data() + 8, 5}};
      note("writev", writev(fd, parts, 3));
      int copy = dup(fd);
      note("close", close(fd));
      note("by the copy", send(copy, " four", 5, 0));
      note("close", close(copy));
      meet();
    }};

Scenario corked{"more/corked", hear_all, [](std::uint16_t port) {
                  int fd = dial(port);
                  int on = 1;
                  note("cork", setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)));
                  for (unsigned i = 0; i < 100; ++i) send_all(fd, pattern(10, i));
                  on = 0;
                  note("uncork", setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)));
                  note("more", send(fd, "more ", 5, MSG_MORE));
                  note("last", send(fd, "last", 4, 0));
                  note("more, then close", send(fd, "tail", 4, MSG_MORE));
                }};

Scenario fast_open{"more/fast-open", hear_all, [](std::uint16_t port) {
                     int fd = socket(AF_INET, SOCK_STREAM, 0);
                     sockaddr_in address = address_of(port);
                     note("sendto",
                          sendto(fd, "at once", 7, MSG_FASTOPEN,
                                 reinterpret_cast<sockaddr *>(&address), sizeof(address)));
                     note("send", send(fd, ", later", 7, 0));
                   }};

sigjmp_buf g_out;

// A handler that never returns: longjmp out of a blocking recv.
Scenario jumped{"more/jumped-out-of-recv",
                [](int listener) {
                  int fd = take(listener);
                  note_data("heard", receive_exactly(fd, 5));
                  send_all(fd, "!");
                  told();
                  send_all(fd, "after");
                  note_rest(fd);
                },
                [](std::uint16_t port) {
                  int fd = dial(port);
                  send_all(fd, "hello");
                  receive_exactly(fd, 1);
                  signal(SIGALRM, [](int) { siglongjmp(g_out, 1); });
                  Bell bell;
                  if (sigsetjmp(g_out, 1) == 0) {
                    char c;
                    note("recv", recv(fd, &c, 1, 0));
                  }
                  tell(0);
                  note_data("goes on", receive_exactly(fd, 5));
                  note("send", send(fd, "bye", 3, 0));
                }};

// The same while the peer has not even accepted.
Scenario jumped_early{"more/jumped-out-of-the-handshake",
                      [](int listener) {
                        told();
                        int fd = take(listener);
                        note_data("heard", receive_exactly(fd, 3));
                        send_all(fd, "after");
                      },
                      [](std::uint16_t port) {
                        int fd = dial(port);
                        signal(SIGALRM, [](int) { siglongjmp(g_out, 1); });
                        Bell bell;
                        if (sigsetjmp(g_out, 1) == 0) {
                          char c;
                          note("recv", recv(fd, &c, 1, 0));
                        }
                        tell(0);
                        note("send", send(fd, "bye", 3, 0));
                        note_data("goes on", receive_exactly(fd, 5));
                      }};

// A handler that itself uses the socket its thread is blocked on.
int g_socket = -1;
Scenario in_handler{"more/send-in-a-handler",
                    [](int listener) {
                      int fd = take(listener);
                      note_data("heard", receive_exactly(fd, 5));
                      send_all(fd, "!");
                      note_data("from the handler", receive_exactly(fd, 4));
                      send_all(fd, "x");
                      note_rest(fd);
                    },
                    [](std::uint16_t port) {
                      g_socket = dial(port);
                      send_all(g_socket, "hello");
                      receive_exactly(g_socket, 1);
                      struct sigaction action {};
                      action.sa_handler = [](int) {
                        int saved = errno;
                        send(g_socket, "ring", 4, MSG_NOSIGNAL);
                        errno = saved;
                      };
                      action.sa_flags = SA_RESTART;
                      sigaction(SIGALRM, &action, nullptr);
                      Bell bell;
                      char c = 0;
                      note("recv", recv(g_socket, &c, 1, 0));
                      note("got", c);
                    }};

// What inlay has no business with.
Scenario others{"more/other-sockets", nullptr, [](std::uint16_t) {
                  int udp = socket(AF_INET, SOCK_DGRAM, 0);
                  sockaddr_in address = address_of(0);
                  socklen_t length = sizeof(address);
                  bind(udp, reinterpret_cast<sockaddr *>(&address), length);
                  getsockname(udp, reinterpret_cast<sockaddr *>(&address), &length);
                  note("connect",
                       connect(udp, reinterpret_cast<sockaddr *>(&address), sizeof(address)));
                  note("send", send(udp, "datagram", 8, 0));
                  char buffer[20];
                  note("recv", recv(udp, buffer, sizeof(buffer), 0));
                  note("no more", recv(udp, buffer, sizeof(buffer), MSG_DONTWAIT));
                  int pair[2];
                  note("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
                  note("write", write(pair[0], "x", 1));
                  note("read", read(pair[1], buffer, 20));
                  note("shutdown", shutdown(pair[0], SHUT_WR));
                  note("read", read(pair[1], buffer, 20));
                }};

}  // namespace
