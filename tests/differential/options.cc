// Socket options that change what calls and readiness do: SO_RCVLOWAT, SO_RCVTIMEO, SO_SNDTIMEO;
// signal masks of the waits.
#include "behaviour.h"

using namespace behaviour;

namespace {

void greet(int fd) {
  note_data("hello", receive_exactly(fd, 5));
  send_all(fd, "!");
}
int dial_and_greet(std::uint16_t port) {
  int fd = dial(port);
  int at_once = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
  send_all(fd, "hello");
  receive_exactly(fd, 1);
  return fd;
}

Scenario time_limits{
    "options/time-limits",
    [](int listener) {
      int fd = take(listener);
      meet();
      note_data("first", receive_exactly(fd, 1));
      meet();
      std::string all = receive_exactly(fd, told());
      note_rest(fd);
      note("as told, intact", all == pattern(all.size()));
    },
    [](std::uint16_t port) {
      int fd = dial(port);
      timeval limit{0, 50000};
      note("set", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
      note("set", setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)));
      char c;
      note("recv before anything", recv(fd, &c, 1, 0));
      meet();
      note("one", send(fd, "1", 1, 0));
      meet();
      note("recv in time", recv(fd, &c, 1, 0));
      std::string bytes = pattern(16 << 20);
      std::size_t sent = 0;
      ssize_t result = 0;
      while (sent < bytes.size() &&
             (result = send(fd, bytes.data() + sent,
                            std::min<std::size_t>(bytes.size() - sent, 100000), 0)) > 0) {
        sent += static_cast<std::size_t>(result);
      }
      note("send in time", result);
      tell(sent);
    }};

Scenario options{"options/read-and-set",
                 [](int listener) {
                   int fd = take(listener);
                   note_rest(fd);
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   int value = -1;
                   socklen_t length = sizeof(value);
                   auto read_option = [&](const char *what, int level, int name) {
                     value = -1;
                     length = sizeof(value);
                     note(what, getsockopt(fd, level, name, &value, &length));
                     note("value", value);
                   };
                   note_data("wait for it", "");
                   send_all(fd, "x");
                   read_option("SO_ERROR", SOL_SOCKET, SO_ERROR);
                   read_option("SO_TYPE", SOL_SOCKET, SO_TYPE);
                   read_option("SO_DOMAIN", SOL_SOCKET, SO_DOMAIN);
                   read_option("SO_PROTOCOL", SOL_SOCKET, SO_PROTOCOL);
                   read_option("SO_ACCEPTCONN", SOL_SOCKET, SO_ACCEPTCONN);
                   read_option("SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT);
                   read_option("TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY);
                   read_option("TCP_NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT);
                   value = 1;
                   note("set", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof(value)));
                   read_option("TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY);
                   value = 10;
                   note("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value)));
                   read_option("SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT);
                   note("bad level", getsockopt(fd, 12345, 1, &value, &length));
                   note("bad address", getsockopt(fd, SOL_SOCKET, SO_TYPE, nullptr, &length));
                   note("flags", fcntl(fd, F_GETFL));
                   note("descriptor flags", fcntl(fd, F_GETFD));
                   sockaddr_in peer{};
                   length = sizeof(peer);
                   note("getpeername",
                        getpeername(fd, reinterpret_cast<sockaddr *>(&peer), &length));
                   note("the server's port", ntohs(peer.sin_port) == port);
                   note("lseek", lseek(fd, 0, SEEK_SET));
                   note("pread", pread(fd, &value, 1, 0));
                   note("listen", listen(fd, 1));
                 }};

// --- SO_RCVLOWAT
// -------------------------------------------------------------------------------------

int set_low_water(int fd, int value) {
  return setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value);
}
long low_water(int fd) {
  int value = -1;
  socklen_t length = sizeof value;
  getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, &length);
  return value;
}

Scenario low_water_values{
    "options/low-water-values",
    [](int listener) {
      note("listener", set_low_water(listener, 7));
      tell(0);  // what connects before that inherits another
      int fd = take(listener);
      note("inherited", low_water(fd));
      for (int value : {0, 1, 10, -1, 1 << 30}) {
        note("set", set_low_water(fd, value));
        note("is", low_water(fd));
      }
      note("short", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &fd, 2));
      note("set", set_low_water(fd, 1));
      note_rest(fd);
    },
    [](std::uint16_t port) {
      told();
      int fd = socket(AF_INET, SOCK_STREAM, 0);
      note("set before", set_low_water(fd, 100'000));
      sockaddr_in address = address_of(port);
      note("connect", connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address));
      note("is", low_water(fd));
      note("send", send(fd, "x", 1, 0));
    }};

// Five bytes at a time, on cue.
void five_on_cue(std::uint16_t port) {
  int fd = dial_and_greet(port);
  for (unsigned i = 0; told() == 0; ++i) {
    send_all(fd, pattern(5, i));
    tell(0);
  }
  send_all(fd, "end");
  close(fd);
}
void cue() {
  tell(0);
  told();
}

Scenario low_water_calls{"options/low-water-and-calls",
                         [](int listener) {
                           int fd = take(listener);
                           greet(fd);
                           note("set", set_low_water(fd, 10));
                           char all[100];
                           cue();
                           await_queued(fd, 5);
                           note("what is there", recv(fd, all, sizeof all, MSG_DONTWAIT));
                           tell(0);
                           tell(0);
                           note("recv", recv(fd, all, sizeof all, 0));
                           told();
                           told();
                           cue();
                           note("less than that", recv(fd, all, 3, 0));
                           tell(0);
                           note("peek", recv(fd, all, sizeof all, MSG_PEEK | MSG_DONTWAIT) >= 2);
                           told();
                           note("no more than there is", recv(fd, all, 7, MSG_WAITALL));
                           tell(1);
                           note("to the end", recv(fd, all, sizeof all, 0));
                           note("the end", recv(fd, all, sizeof all, 0));
                         },
                         five_on_cue};

void low_water_waits(int listener, unsigned events) {
  int fd = take(listener);
  greet(fd);
  note("set", set_low_water(fd, 10));
  int epoll = epoll_create1(0);
  epoll_event event{events, {.fd = fd}};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  char all[100];
  for (int i = 0; i < 3; ++i) {
    cue();
    pollfd one{fd, POLLIN, 0};
    note("poll", poll(&one, 1, 0));
    note("epoll", epoll_wait(epoll, &event, 1, 0));
    cue();
    note("poll", poll(&one, 1, -1));
    note("epoll", epoll_wait(epoll, &event, 1, -1));
    note("recv", recv(fd, all, sizeof all, MSG_DONTWAIT));
    note("poll", poll(&one, 1, 0));
  }
  tell(1);
  note("epoll", epoll_wait(epoll, &event, 1, -1));
  note_rest(fd);
}
Scenario low_water_level{"options/low-water-and-epoll",
                         [](int listener) { low_water_waits(listener, EPOLLIN); }, five_on_cue};
Scenario low_water_edge{"options/low-water-and-edges",
                        [](int listener) { low_water_waits(listener, EPOLLIN | EPOLLET); },
                        five_on_cue};

// --- time limits
// -------------------------------------------------------------------------------------

void set_limit(int fd, int option) {
  timeval limit{0, 200'000};
  note("limit", setsockopt(fd, SOL_SOCKET, option, &limit, sizeof limit));
}

// The limit is the whole call's, not each wait's: it comes though bytes do.
Scenario trickle_in{"options/receive-time-limit-of-the-whole-call",
                    [](int listener) {
                      int fd = take(listener);
                      greet(fd);
                      await_queued(fd, 1);
                      set_limit(fd, SO_RCVTIMEO);
                      std::string all(1 << 20, '\0');
                      ssize_t got = recv(fd, all.data(), all.size(), MSG_WAITALL);
                      note("some of it", got > 0 && got < 1 << 20);
                      tell(0);
                      note_data("then", receive_exactly(fd, 1).empty() ? "nothing" : "something");
                    },
                    [](std::uint16_t port) {
                      int fd = dial_and_greet(port);
                      std::atomic<bool> over{false};
                      Worker waiter("waiter", [&over] {
                        told();
                        over = true;
                      });
                      while (!over) {
                        send_all(fd, "x");
                        poll(nullptr, 0, 20);
                      }
                      waiter.join();
                      send_all(fd, "y");
                    }};

Scenario trickle_out{"options/send-time-limit-of-the-whole-call",
                     [](int listener) {
                       int small = 20'000;
                       setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
                       int fd = take(listener);
                       greet(fd);
                       std::atomic<bool> over{false};
                       Worker waiter("waiter", [&over] {
                         told();
                         over = true;
                       });
                       std::string some(10'000, '\0');
                       while (!over && recv(fd, some.data(), some.size(), 0) > 0) {
                         poll(nullptr, 0, 20);
                       }
                       waiter.join();
                     },
                     [](std::uint16_t port) {
                       int fd = dial_and_greet(port);
                       int small = 20'000;
                       setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
                       set_limit(fd, SO_SNDTIMEO);
                       std::string all = pattern(32 << 20);
                       ssize_t sent = send(fd, all.data(), all.size(), 0);
                       note("some of it", sent > 0 && sent < 32 << 20);
                       tell(0);
                       linger now{1, 0};
                       setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
                     }};

// --- signals and waits
// -------------------------------------------------------------------------------

void ring(int flags) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = flags;
  sigaction(SIGALRM, &action, nullptr);
  itimerval every{{0, 20000}, {0, 20000}};
  setitimer(ITIMER_REAL, &every, nullptr);
}
void silence() {
  itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
}

// With part of it in hand a call is not begun again; with a time limit none is.
Scenario interrupted{"signals/interrupted-with-part-of-it",
                     [](int listener) {
                       int fd = take(listener);
                       greet(fd);
                       char all[20];
                       note("look", recv(fd, all, 5, MSG_PEEK | MSG_WAITALL));
                       ring(SA_RESTART);
                       note("part", recv(fd, all, 10, MSG_WAITALL));
                       timeval limit{50, 0};
                       setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
                       note("with a limit", recv(fd, all, 10, 0));
                       silence();
                       tell(0);
                       note_data("the rest", receive_exactly(fd, 5));
                     },
                     [](std::uint16_t port) {
                       int fd = dial_and_greet(port);
                       send_all(fd, "12345");
                       told();
                       send_all(fd, "67890");
                     }};

// A signal that waits for its mask interrupts the wait; data ends it.
Scenario masks{"signals/ppoll-pselect-epoll-pwait",
               [](int listener) {
                 int fd = take(listener);
                 greet(fd);
                 signal(SIGUSR1, [](int) {});
                 sigset_t usr1, before, none;
                 sigemptyset(&none);
                 sigemptyset(&usr1);
                 sigaddset(&usr1, SIGUSR1);
                 sigprocmask(SIG_BLOCK, &usr1, &before);
                 int epoll = epoll_create1(0);
                 epoll_event event{EPOLLIN, {.fd = fd}};
                 epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                 for (const sigset_t *mask : {&none, &usr1, static_cast<sigset_t *>(nullptr)}) {
                   for (int which = 0; which < 3; ++which) {
                     if (mask == &none) raise(SIGUSR1);
                     if (mask != &none) tell(0);
                     pollfd one{fd, POLLIN, 0};
                     fd_set set;
                     FD_ZERO(&set);
                     FD_SET(fd, &set);
                     long result = which == 0 ? ppoll(&one, 1, nullptr, mask)
                                   : which == 1
                                       ? pselect(fd + 1, &set, nullptr, nullptr, nullptr, mask)
                                       : epoll_pwait(epoll, &event, 1, -1, mask);
                     note("wait", result);
                     if (result > 0) note_data("data", receive_exactly(fd, 3));
                   }
                 }
                 tell(1);
                 note_rest(fd);
               },
               [](std::uint16_t port) {
                 int fd = dial_and_greet(port);
                 while (told() == 0) send_all(fd, "abc");
               }};

// A handler that reads and writes another connection, and looks at the one its thread waits for.
int g_waited = -1, g_other = -1;
Scenario in_handler{"signals/read-and-written-in-a-handler",
                    [](int listener) {
                      int first = take(listener);
                      int second = take(listener);
                      greet(first);
                      greet(second);
                      send_all(second, "question");
                      note_data("answer", receive_exactly(second, 6));
                      send_all(first, "x");
                      note_rest(first);
                    },
                    [](std::uint16_t port) {
                      g_waited = dial(port);
                      g_other = dial(port);
                      for (int fd : {g_waited, g_other}) {
                        send_all(fd, "hello");
                        receive_exactly(fd, 1);
                      }
                      struct sigaction action {};
                      action.sa_handler = [](int) {
                        int saved = errno;
                        char buffer[8];
                        note("nothing there", recv(g_waited, buffer, 1, MSG_DONTWAIT));
                        note_data("read", receive_exactly(g_other, 8));
                        note("written", write(g_other, "answer", 6));
                        errno = saved;
                      };
                      action.sa_flags = SA_RESTART;
                      sigaction(SIGALRM, &action, nullptr);
                      Bell bell;
                      char c = 0;
                      note("recv", recv(g_waited, &c, 1, 0));
                    }};

}  // namespace
