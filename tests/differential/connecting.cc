// connect() in all its ways to fail and to succeed later.
#include <linux/filter.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

int try_connect(int fd, std::uint16_t port) {
  sockaddr_in address = address_of(port);
  return connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address));
}

long error_of(int fd) {
  int error = -1;
  socklen_t length = sizeof(error);
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

// Kept by a socket that does not listen: nobody else can.
std::uint16_t closed_port() {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = address_of(0);
  socklen_t length = sizeof(address);
  bind(fd, reinterpret_cast<sockaddr *>(&address), length);
  getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
  return ntohs(address.sin_port);
}

void echo_twice(int listener) {
  for (int i = 0; i < 2; ++i) {
    int fd = take(listener);
    note_data("heard", receive_exactly(fd, 5));
    send_all(fd, "echo!");
    note_rest(fd);
    close(fd);
  }
}
void echo_once(int listener) {
  int fd = take(listener);
  note_data("heard", receive_exactly(fd, 5));
  send_all(fd, "echo!");
  note_rest(fd);
}
void converse(int fd) {
  note("say", send(fd, "hello", 5, MSG_NOSIGNAL));
  note_data("echo", receive_exactly(fd, 5));
}

Scenario refused{"connecting/refused", echo_once, [](std::uint16_t port) {
                   int fd = socket(AF_INET, SOCK_STREAM, 0);
                   note("connect", try_connect(fd, closed_port()));
                   note("SO_ERROR", error_of(fd));
                   char c;
                   note("recv", recv(fd, &c, 1, 0));
                   note("send", send(fd, "x", 1, MSG_NOSIGNAL));
                   note("poll", wait_for(fd, POLLIN));
                   note("connect again", try_connect(fd, port));
                   converse(fd);
                 }};

// A blocking client that waits by select() before it reads: what it waits for is the server's word,
// not a handshake's.
Scenario selected{"connecting/select-before-reading",
                  [](int listener) {
                    for (int i = 0; i < 20; ++i) {
                      int fd = take(listener);
                      send_all(fd, "hello");
                      note_rest(fd);
                      close(fd);
                    }
                  },
                  [](std::uint16_t port) {
                    for (int i = 0; i < 20; ++i) {
                      int fd = socket(AF_INET, SOCK_STREAM, 0);
                      note("connect", try_connect(fd, port));
                      fd_set set;
                      FD_ZERO(&set);
                      FD_SET(fd, &set);
                      note("select", select(fd + 1, &set, nullptr, nullptr, nullptr));
                      char byte;
                      note("recv", recv(fd, &byte, 1, MSG_DONTWAIT));
                      note_data("rest", receive_exactly(fd, 4));
                      close(fd);
                    }
                  }};

Scenario refused_later{"connecting/refused-nonblocking", echo_once, [](std::uint16_t port) {
                         int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
                         note("connect", try_connect(fd, closed_port()));
                         note("poll", wait_for(fd, POLLOUT));
                         note("SO_ERROR", error_of(fd));
                         note("SO_ERROR again", error_of(fd));
                         note("send", send(fd, "x", 1, MSG_NOSIGNAL));
                         char c;
                         note("recv", recv(fd, &c, 1, 0));
                         note("connect again", try_connect(fd, port));
                         note("and again", try_connect(fd, port));
                         note("poll", wait_for(fd, POLLOUT));
                         fcntl(fd, F_SETFL, 0);
                         converse(fd);
                       }};

Scenario refused_recv{"connecting/refused-found-by-recv", nullptr, [](std::uint16_t) {
                        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
                        note("connect", try_connect(fd, closed_port()));
                        wait_for(fd, POLLOUT);
                        char c;
                        note("recv", recv(fd, &c, 1, 0));
                        note("SO_ERROR", error_of(fd));
                        note("recv again", recv(fd, &c, 1, 0));
                        note("close", close(fd));
                      }};

Scenario refused_early{"connecting/refused-found-by-send", nullptr, [](std::uint16_t) {
                         int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
                         note("connect", try_connect(fd, closed_port()));
                         wait_for(fd, POLLOUT);
                         note("send", send(fd, "x", 1, MSG_NOSIGNAL));
                         note("send again", send(fd, "x", 1, MSG_NOSIGNAL));
                       }};

Scenario nonblocking{"connecting/nonblocking", echo_once, [](std::uint16_t port) {
                       int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
                       note("connect", try_connect(fd, port));
                       note("poll", wait_for(fd, POLLOUT));
                       note("SO_ERROR", error_of(fd));
                       note("connect again", try_connect(fd, port));
                       note("and again", try_connect(fd, port));
                       char c;
                       note("recv", recv(fd, &c, 1, 0));
                       fcntl(fd, F_SETFL, 0);
                       converse(fd);
                     }};

Scenario twice{"connecting/twice", echo_once, [](std::uint16_t port) {
                 int fd = dial(port);
                 note("connect again", try_connect(fd, port));
                 note("elsewhere", try_connect(fd, closed_port()));
                 converse(fd);
               }};

Scenario disconnect{"connecting/disconnect-and-reconnect", echo_twice, [](std::uint16_t port) {
                      int fd = dial(port);
                      converse(fd);
                      sockaddr nowhere{};
                      nowhere.sa_family = AF_UNSPEC;
                      note("disconnect", connect(fd, &nowhere, sizeof(nowhere)));
                      note("send", send(fd, "x", 1, MSG_NOSIGNAL));
                      char c;
                      note("recv", recv(fd, &c, 1, 0));
                      note("connect", try_connect(fd, port));
                      converse(fd);
                    }};

Scenario unconnected{"connecting/not-connected", nullptr, [](std::uint16_t) {
                       int fd = socket(AF_INET, SOCK_STREAM, 0);
                       char c;
                       signal(SIGPIPE, SIG_IGN);
                       note("recv", recv(fd, &c, 1, 0));
                       note("read", read(fd, &c, 1));
                       note("send", send(fd, "x", 1, 0));
                       note("shutdown", shutdown(fd, SHUT_WR));
                       note("poll", wait_for(fd, POLLIN));
                       sockaddr_in6 wrong{};
                       wrong.sin6_family = AF_INET6;
                       note("wrong family",
                            connect(fd, reinterpret_cast<sockaddr *>(&wrong), sizeof(wrong)));
                       note("short address", connect(fd, reinterpret_cast<sockaddr *>(&wrong), 3));
                       note("bad descriptor", try_connect(77, 1));
                     }};

// --- nobody listens
// ----------------------------------------------------------------------------------

int bound_socket(std::uint16_t *port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  sockaddr_in address = address_of(0);
  socklen_t length = sizeof address;
  bind(fd, reinterpret_cast<sockaddr *>(&address), length);
  getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
  *port = ntohs(address.sin_port);
  return fd;
}

void say_and_hear(int fd) {
  fcntl(fd, F_SETFL, 0);
  note("send", send(fd, "hello", 5, MSG_NOSIGNAL));
  note_data("heard", receive_exactly(fd, 5));
}

Scenario to_itself{"connecting/to-itself", nullptr, [](std::uint16_t) {
                     std::uint16_t port = 0;
                     int fd = bound_socket(&port);
                     note("connect", try_connect(fd, port));
                     say_and_hear(fd);
                     note("shutdown", shutdown(fd, SHUT_WR));
                     note_rest(fd);
                   }};

// Both connect, neither listens (RFC 9293 §3.5). The first one's SYN is answered with a reset,
// which its filter keeps from it.
Scenario at_once{"connecting/simultaneous-open",
                 [](int) {
                   std::uint16_t own = 0;
                   int fd = bound_socket(&own);
                   tell(own);
                   auto other = static_cast<std::uint16_t>(told());
                   meet();
                   note("connect", try_connect(fd, other));
                   note("writable", wait_for(fd, POLLOUT) & POLLOUT);
                   say_and_hear(fd);
                   meet();
                 },
                 [](std::uint16_t) {
                   auto other = static_cast<std::uint16_t>(told());
                   std::uint16_t own = 0;
                   int fd = bound_socket(&own);
                   tell(own);
                   sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
                   sock_fprog program{1, &nothing};
                   note("filter",
                        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
                   note("connect", try_connect(fd, other));
                   note("no filter", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &fd, sizeof fd));
                   meet();
                   note("writable", wait_for(fd, POLLOUT) & POLLOUT);
                   say_and_hear(fd);
                   meet();
                 }};

}  // namespace
