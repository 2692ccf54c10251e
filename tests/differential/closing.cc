// Ending a connection, with bytes owed and without.
#include <spawn.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

// --- bytes owed ---------------------------------------------------------------------------------

// The server takes what comes in small bites, through a small window: most of it is still owed when
// the client ends.
void eat_slowly(int listener) {
  int small = 4096;
  setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  int fd = take(listener);
  std::uint64_t expected = told();
  std::string all;
  char bite[1000];
  ssize_t got;
  while ((got = recv(fd, bite, sizeof(bite), 0)) > 0)
    all.append(bite, static_cast<std::size_t>(got));
  note("then recv", got);
  note("every byte", all.size() == expected);
  note("intact", all == pattern(all.size()));
}

// Writes until the kernel takes no more, and says how much that was.
int fill(std::uint16_t port, int type_flags) {
  int fd = dial(port, type_flags);
  std::string bytes = pattern(4 << 20);
  std::size_t sent = 0;
  for (;;) {
    ssize_t got = send(fd, bytes.data() + sent, std::min<std::size_t>(bytes.size() - sent, 30000),
                       MSG_DONTWAIT);
    if (got <= 0) break;
    sent += static_cast<std::size_t>(got);
    if (sent == bytes.size()) break;
  }
  tell(sent);
  return fd;
}

Scenario owed_close{"closing/owed-close", eat_slowly, [](std::uint16_t port) {
                      int fd = fill(port, 0);
                      note("close", close(fd));
                      note("number is free", fcntl(fd, F_GETFD));
                    }};
Scenario owed_shutdown{"closing/owed-shutdown", eat_slowly, [](std::uint16_t port) {
                         int fd = fill(port, 0);
                         note("shutdown", shutdown(fd, SHUT_WR));
                         note_rest(fd);
                       }};
Scenario owed_exit{"closing/owed-exit", eat_slowly, [](std::uint16_t port) {
                     fill(port, 0);
                     exit(3);
                   }};
Scenario owed_exit_now{"closing/owed-_exit", eat_slowly, [](std::uint16_t port) {
                         fill(port, 0);
                         _exit(4);
                       }};
Scenario owed_quick_exit{"closing/owed-quick_exit", eat_slowly, [](std::uint16_t port) {
                           fill(port, 0);
                           quick_exit(5);
                         }};
Scenario owed_return{"closing/owed-return", eat_slowly, [](std::uint16_t port) { fill(port, 0); }};
Scenario owed_exec{"closing/owed-exec", eat_slowly, [](std::uint16_t port) {
                     fill(port, SOCK_CLOEXEC);
                     execl("/bin/sh", "sh", "-c", "exit 6", nullptr);
                   }};
Scenario owed_nonblocking{"closing/owed-nonblocking", eat_slowly, [](std::uint16_t port) {
                            int fd = fill(port, 0);
                            make_nonblocking(fd);
                            note("close", close(fd));
                          }};

// --- big early data -----------------------------------------------------------------------------

Scenario early_close{"closing/early-data-close",
                     [](int listener) {
                       meet();  // all of it is written and closed before it is accepted
                       int fd = take(listener);
                       note_rest(fd, 3000);
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       note("all sent", send_all(fd, pattern(100000)));
                       note("close", close(fd));
                       meet();
                     }};
Scenario early_answer{"closing/early-data-both-ways",
                      [](int listener) {
                        int fd = take(listener);
                        note("all sent", send_all(fd, pattern(100000, 1)));
                        note_rest(fd);
                      },
                      [](std::uint16_t port) {
                        int fd = dial(port);
                        note("all sent", send_all(fd, pattern(100000, 2)));
                        note("shutdown", shutdown(fd, SHUT_WR));
                        note_rest(fd);
                      }};

// --- resets and broken pipes --------------------------------------------------------------------

Scenario reset{"closing/linger-0",
               [](int listener) {
                 int fd = take(listener);
                 note_data("hello", receive_exactly(fd, 5));
                 note("answer", send(fd, "x", 1, 0));
                 meet();
                 meet();  // reset
                 int events = wait_for(fd, POLLIN);
                 note("hung up", (events & POLLHUP) != 0);
                 note_rest(fd);
                 char c;
                 note("recv again", recv(fd, &c, 1, 0));
                 note("send", send(fd, "x", 1, MSG_NOSIGNAL));
               },
               [](std::uint16_t port) {
                 int fd = dial(port);
                 send_all(fd, "hello");
                 receive_exactly(fd, 1);
                 meet();
                 linger now{1, 0};
                 note("set", setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
                 note("close", close(fd));
                 meet();
               }};

// Two pieces and a reset are there before the call that takes the pieces: it wants more, and cannot tell
// of the reset. 42 is room for all that two records of ten bytes are on the wire, and nothing more.
void read_before_a_reset(int listener, std::size_t room, int low_water) {
  int fd = take(listener);
  note_data("hello", receive_exactly(fd, 5));
  note("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water)));
  meet();
  meet();  // reset
  char bytes[100];
  note("recv", recv(fd, bytes, room, 0));
  note("send", send(fd, "x", 1, MSG_NOSIGNAL));
  note("send again", send(fd, "x", 1, MSG_NOSIGNAL));
  note("recv again", recv(fd, bytes, room, 0));
}

void send_and_reset(std::uint16_t port) {
  int fd = dial(port);
  send_all(fd, "hello");
  meet();
  int at_once = 1;
  linger now{1, 0};
  note("set", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof(at_once)));
  note("set", setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
  send_all(fd, "ten bytes.");
  send_all(fd, "ten bytes.");
  note("close", close(fd));
  meet();
}

Scenario reset_behind{"closing/reset-behind-data",
                      [](int listener) { read_before_a_reset(listener, 42, 1); }, send_and_reset};
Scenario reset_behind_low{"closing/reset-below-low-water",
                          [](int listener) { read_before_a_reset(listener, 100, 30); },
                          send_and_reset};

Scenario unread{"closing/unread-data",
                [](int listener) {
                  int fd = take(listener);
                  note_data("hello", receive_exactly(fd, 5));
                  note("ignored", send(fd, "ignored", 7, 0));
                  meet();
                  meet();
                  wait_for(fd, POLLIN);
                  note_rest(fd);
                  int error = -1;
                  socklen_t length = sizeof(error);
                  note("SO_ERROR", getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
                  note("value", error);
                },
                [](std::uint16_t port) {
                  int fd = dial(port);
                  send_all(fd, "hello");
                  char c;
                  note("peek", recv(fd, &c, 1, MSG_PEEK));
                  meet();
                  note("close", close(fd));
                  meet();
                }};

int g_pipes = 0;

// Nobody has read or written on it at either end, and the end is in good order.
Scenario untouched{"closing/untouched",
                   [](int listener) {
                     for (int i = 0; i < 20; ++i) {
                       int fd = accept(listener, nullptr, nullptr);
                       note("close", close(fd));
                     }
                     meet();
                   },
                   [](std::uint16_t port) {
                     for (int i = 0; i < 20; ++i) {
                       int fd = dial(port);
                       note_rest(fd);
                       close(fd);
                     }
                     meet();
                   }};
Scenario untouched_exit{"closing/untouched-exit",
                        [](int listener) {
                          accept(listener, nullptr, nullptr);
                          exit(4);
                        },
                        [](std::uint16_t port) { note_rest(dial(port)); }};
Scenario untouched_client{"closing/untouched-by-the-client",
                          [](int listener) {
                            for (int i = 0; i < 20; ++i) {
                              int fd = take(listener);
                              note_rest(fd);
                              close(fd);
                            }
                          },
                          [](std::uint16_t port) {
                            for (int i = 0; i < 20; ++i) note("close", close(dial(port)));
                          }};
// A child has it and goes on: nothing ends, whoever closes.
Scenario untouched_here{"closing/untouched-by-the-parent",
                        [](int listener) {
                          int fd = accept(listener, nullptr, nullptr);
                          pid_t child = fork();
                          if (child == 0) {
                            call_myself("child");
                            meet();
                            note("sent", send(fd, "child", 5, 0));
                            note_rest(fd);
                            _exit(0);
                          }
                          note("close", close(fd));
                          int status = 0;
                          waitpid(child, &status, 0);
                          note("status", status);
                        },
                        [](std::uint16_t port) {
                          int fd = dial(port);
                          meet();
                          note_data("heard", receive_exactly(fd, 5));
                          note("shutdown", shutdown(fd, SHUT_WR));
                          note_rest(fd);
                        }};

Scenario broken_pipe{"closing/broken-pipe",
                     [](int listener) {
                       signal(SIGPIPE, [](int) { ++g_pipes; });
                       int fd = take(listener);
                       note_data("hello", receive_exactly(fd, 5));
                       note("unread", send(fd, "unread", 6, 0));
                       meet();
                       meet();
                       wait_for(fd, POLLHUP);
                       note("first", send(fd, "x", 1, 0));
                       note("second", send(fd, "x", 1, 0));
                       note("signals", g_pipes);
                       note("third, no signal", send(fd, "x", 1, MSG_NOSIGNAL));
                       note("write", write(fd, "x", 1));
                       note("signals", g_pipes);
                       char c;
                       note("recv", recv(fd, &c, 1, 0));
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       send_all(fd, "hello");
                       char c;
                       note("peek", recv(fd, &c, 1, MSG_PEEK));
                       meet();
                       close(fd);
                       meet();
                     }};

Scenario killed_by_pipe{"closing/killed-by-sigpipe",
                        [](int listener) {
                          int fd = take(listener);
                          receive_exactly(fd, 5);
                          shutdown(fd, SHUT_WR);
                          note("write", write(fd, "x", 1));
                          note("not reached", 1);
                        },
                        [](std::uint16_t port) {
                          int fd = dial(port);
                          send_all(fd, "hello");
                          note_rest(fd);
                        }};

Scenario after_shutdown{"closing/shutdown-both",
                        [](int listener) {
                          int fd = take(listener);
                          note_data("hello", receive_exactly(fd, 5));
                          note("shutdown", shutdown(fd, SHUT_RDWR));
                          char c;
                          note("recv", recv(fd, &c, 1, 0));
                          note("send", send(fd, "x", 1, MSG_NOSIGNAL));
                          note("bad how", shutdown(fd, 9));
                          meet();
                          sockaddr_in peer{};
                          socklen_t length = sizeof(peer);
                          note("shutdown again", shutdown(fd, SHUT_RDWR));
                          note("getpeername",
                               getpeername(fd, reinterpret_cast<sockaddr *>(&peer), &length));
                        },
                        [](std::uint16_t port) {
                          int fd = dial(port);
                          send_all(fd, "hello");
                          note_rest(fd);
                          note("events", wait_for(fd, POLLRDHUP) & POLLRDHUP);
                          close(fd);
                          meet();
                        }};

// --- numbers ------------------------------------------------------------------------------------

Scenario reuse{"closing/number-reuse",
               [](int listener) {
                 for (int i = 0; i < 60; ++i) {
                   int fd = take(listener);
                   if (i == 0) note("number", fd);
                   std::string got = receive_exactly(fd, 4);
                   send_all(fd, got);
                   if (i % 3 != 0) receive_exactly(fd, 1);
                   close(fd);
                 }
               },
               [](std::uint16_t port) {
                 int good = 0;
                 for (int i = 0; i < 60; ++i) {
                   int fd = dial(port);
                   if (fd != 3) note("number", fd);
                   char text[5];
                   std::snprintf(text, sizeof(text), "%04d", i);
                   send_all(fd, {text, 4});
                   if (receive_exactly(fd, 4) == text) ++good;
                   close(fd);
                   // The number may be anything next.
                   int pipe_ends[2];
                   if (pipe(pipe_ends) == 0) {
                     if (write(pipe_ends[1], "x", 1) != 1) note("pipe", -1);
                     close(pipe_ends[0]);
                     close(pipe_ends[1]);
                   }
                 }
                 note("good", good);
               }};

}  // namespace
