// Blocked calls that are left: by a signal, by a jump out of its handler, by cancellation.
#include <arpa/nameser.h>
#include <resolv.h>

#include <csetjmp>
#include <vector>

#include "behaviour.h"

using namespace behaviour;

namespace {

void greet(int fd) {
  note_data("hello", receive_exactly(fd, 5));
  send_all(fd, "!");
}
int dial_and_greet(std::uint16_t port) {
  int fd = dial(port);
  send_all(fd, "hello");
  receive_exactly(fd, 1);
  return fd;
}

// --- connect() and accept()
// --------------------------------------------------------------------------

// A listener that takes no more connections, so that one more waits in connect().
struct Full {
  std::uint16_t port = 0;
  int listener = listen_anywhere(&port);
  std::vector<int> waiting;
  Full() {
    listen(listener, 0);
    for (;;) {
      int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
      sockaddr_in address = address_of(port);
      connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address);
      pollfd one{fd, POLLOUT, 0};
      if (poll(&one, 1, 100) == 0) {
        close(fd);
        return;
      }
      waiting.push_back(fd);
    }
  }
  // Makes room, and takes the connection of `fd`.
  int take_last(int fd) {
    sockaddr_in mine{};
    socklen_t length = sizeof mine;
    getsockname(fd, reinterpret_cast<sockaddr *>(&mine), &length);
    for (;;) {
      sockaddr_in from{};
      length = sizeof from;
      int taken = accept(listener, reinterpret_cast<sockaddr *>(&from), &length);
      if (from.sin_port == mine.sin_port) return taken;
      close(taken);
    }
  }
};

void finish_connecting(Full &full, int fd) {
  int far = full.take_last(fd);
  note("writable", wait_for(fd, POLLOUT) & POLLOUT);
  int error = -1;
  socklen_t length = sizeof error;
  note("SO_ERROR", getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
  note("is", error);
  note("send", send(fd, "hello", 5, 0));
  greet(far);
  char c;
  note("answer", recv(fd, &c, 1, 0));
}

Scenario interrupted_connect{"left/interrupted-connect", nullptr, [](std::uint16_t) {
                               Full full;
                               struct sigaction action {};
                               action.sa_handler = [](int) {};
                               sigaction(SIGALRM, &action, nullptr);
                               int fd = socket(AF_INET, SOCK_STREAM, 0);
                               sockaddr_in address = address_of(full.port);
                               auto *to = reinterpret_cast<sockaddr *>(&address);
                               Bell bell;
                               note("connect", connect(fd, to, sizeof address));
                               make_nonblocking(fd);
                               note("again", connect(fd, to, sizeof address));
                               fcntl(fd, F_SETFL, 0);
                               finish_connecting(full, fd);
                               note("and again", connect(fd, to, sizeof address));
                             }};

sigjmp_buf g_out;
void jump(int) { siglongjmp(g_out, 1); }

Scenario jumped_connect{
    "left/jumped-out-of-connect", nullptr, [](std::uint16_t) {
      Full full;
      signal(SIGALRM, jump);
      int fd = socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in address = address_of(full.port);
      Bell bell;
      if (sigsetjmp(g_out, 1) == 0) {
        note("connect", connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address));
      }
      finish_connecting(full, fd);
    }};

Scenario cancelled_connect{"left/cancelled-connect", nullptr, [](std::uint16_t) {
                             Full full;
                             int fd = socket(AF_INET, SOCK_STREAM, 0);
                             sockaddr_in address = address_of(full.port);
                             Worker worker("worker", [fd, &address] {
                               connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address);
                               note("not reached", 1);
                             });
                             worker.await_blocked();
                             note("cancel", pthread_cancel(worker.handle()));
                             worker.join();
                             finish_connecting(full, fd);
                           }};

Scenario left_accept{"left/interrupted-and-jumped-out-of-accept",
                     [](int listener) {
                       struct sigaction action {};
                       action.sa_handler = [](int) {};
                       sigaction(SIGALRM, &action, nullptr);
                       {
                         Bell bell;
                         note("accept", accept(listener, nullptr, nullptr));
                       }
                       signal(SIGALRM, jump);
                       Bell bell;
                       if (sigsetjmp(g_out, 1) == 0) {
                         note("accept", accept4(listener, nullptr, nullptr, SOCK_NONBLOCK));
                       }
                       meet();
                       int fd = take(listener);
                       greet(fd);
                     },
                     [](std::uint16_t port) {
                       meet();
                       dial_and_greet(port);
                     }};

// --- send()
// ------------------------------------------------------------------------------------------

// What the call was cut off from is its own affair; that it goes on is not.
void hear_the_last(int listener) {
  int fd = take(listener);
  greet(fd);
  meet();
  std::string tail;
  char buffer[65536];
  ssize_t got;
  while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0) {
    tail.append(buffer, static_cast<std::size_t>(got));
    if (tail.size() > 4) tail.erase(0, tail.size() - 4);
  }
  note("orderly end", got);
  say("ends with", tail);
}

Scenario jumped_send{"left/jumped-out-of-send", hear_the_last, [](std::uint16_t port) {
                       int fd = dial_and_greet(port);
                       static std::string bytes = pattern(64 << 20);
                       signal(SIGALRM, jump);
                       Bell bell;
                       if (sigsetjmp(g_out, 1) == 0) {
                         send(fd, bytes.data(), bytes.size(), 0);
                         note("not reached", 1);
                       }
                       meet();
                       note("goes on", send_all(fd, "last"));
                       note("close", close(fd));
                     }};

// --- every call that receives
// ------------------------------------------------------------------------

using Receive = void (*)(int fd);
constexpr Receive kReceives[] = {
    [](int fd) {
      char c;
      if (read(fd, &c, 1) != 0) note("not reached", 1);
    },
    [](int fd) {
      char c;
      iovec part{&c, 1};
      if (readv(fd, &part, 1) != 0) note("not reached", 1);
    },
    [](int fd) {
      char c;
      recvfrom(fd, &c, 1, 0, nullptr, nullptr);
    },
    [](int fd) {
      char c;
      iovec part{&c, 1};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      recvmsg(fd, &message, MSG_WAITALL);
    },
    [](int fd) {
      char c;
      iovec part{&c, 1};
      mmsghdr message{};
      message.msg_hdr.msg_iov = &part;
      message.msg_hdr.msg_iovlen = 1;
      recvmmsg(fd, &message, 1, 0, nullptr);
    },
    [](int fd) {
      char c;
      recv(fd, &c, 1, MSG_PEEK);
    },
    [](int fd) { wait_for(fd, POLLIN); },
};

Scenario cancelled{"left/cancelled-in-every-receive",
                   [](int listener) {
                     int fd = take(listener);
                     greet(fd);
                     meet();
                     send_all(fd, "after");
                     note_rest(fd);
                   },
                   [](std::uint16_t port) {
                     int fd = dial_and_greet(port);
                     for (Receive receive : kReceives) {
                       Worker worker("worker", [fd, receive] {
                         receive(fd);
                         note("not reached", 1);
                       });
                       worker.await_blocked();
                       note("cancel", pthread_cancel(worker.handle()));
                       worker.join();
                     }
                     meet();
                     note_data("goes on", receive_exactly(fd, 5));
                     note("send", send(fd, "bye", 3, 0));
                     note("close", close(fd));
                   }};

Scenario cancelled_elsewhere{"left/cancelled-in-system-and-look-up", nullptr, [](std::uint16_t) {
                               Worker shell("shell", [] {
                                 note("system", system("exec sleep 1000"));
                                 note("not reached", 1);
                               });
                               shell.await_blocked();
                               note("cancel", pthread_cancel(shell.handle()));
                               shell.join();

                               int silent = socket(AF_INET, SOCK_DGRAM, 0);
                               sockaddr_in server = address_of(0);
                               socklen_t length = sizeof server;
                               note("bind",
                                    bind(silent, reinterpret_cast<sockaddr *>(&server), length));
                               getsockname(silent, reinterpret_cast<sockaddr *>(&server), &length);
                               struct __res_state state {};
                               note("init", res_ninit(&state));
                               state.nscount = 1;
                               state.nsaddr_list[0] = server;
                               state.retrans = 1000;
                               unsigned long options = state.options;
                               Worker asking("asking", [&state] {
                                 unsigned char answer[512];
                                 res_nquery(&state, "host.example", 1, 1, answer, sizeof answer);
                                 note("not reached", 1);
                               });
                               asking.await_blocked();
                               note("cancel", pthread_cancel(asking.handle()));
                               asking.join();
                               note("options kept", state.options == options);
                               note("server kept", state.nscount == 1);
                             }};

}  // namespace
