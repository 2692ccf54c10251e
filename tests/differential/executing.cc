// A connection goes on in the next image.
#include <spawn.h>
#include <sys/stat.h>

#include <thread>

#include "behaviour.h"

using namespace behaviour;

namespace {

void hear_all(int listener) {
  int fd = take(listener);
  note_rest(fd);
}

// Answers what it hears, piece by piece.
void echo(int listener) {
  int fd = take(listener);
  char buffer[4096];
  for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
    send_all(fd, {buffer, static_cast<std::size_t>(got)});
  }
}

bool ask(int fd, std::string_view question) {
  return send_all(fd, question) && receive_exactly(fd, question.size()) == question;
}

void note_status(pid_t child) {
  int status = -1;
  note("waitpid", waitpid(child, &status, 0) == child);
  note("status", status);
}

[[noreturn]] void execute(Then then) {
  execv(then.path(), then.arguments());
  note("execv", -1);
  _exit(1);
}

Scenario survives{"executing/echo-with-the-descriptor", hear_all, [](std::uint16_t port) {
                    int fd = dial(port);
                    send_all(fd, "before ");
                    dup2(fd, 1);
                    execl("/bin/echo", "echo", "after", nullptr);
                  }};

// One record, ten bytes of which the image before has read; then a second one.
Continuation read_on{"read-on", [](int fd) {
                       std::string then = receive_exactly(fd, 7990);
                       note_data("then", then += receive_exactly(fd, 500));
                       note("answer", send(fd, "answer", 6, 0));
                       note_rest(fd);
                     }};
Scenario in_a_record{"executing/in-the-middle-of-a-record",
                     [](int listener) {
                       int fd = take(listener);
                       send_all(fd, pattern(8000));
                       send_all(fd, pattern(500, 1));
                       note_data("answer", receive_exactly(fd, 6));
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       note_data("first", receive_exactly(fd, 10));
                       execute({"read-on", fd});
                     }};

Continuation ask_again{"ask-again", [](int fd) {
                         note("asked", ask(fd, "the second question"));
                         note("shutdown", shutdown(fd, SHUT_WR));
                         note_rest(fd);
                       }};
Scenario no_environment{"executing/without-an-environment", echo, [](std::uint16_t port) {
                          int fd = dial(port);
                          note("asked", ask(fd, "the first"));
                          Then then("ask-again", fd);
                          char *const *list = then.arguments();
                          char *nothing[] = {nullptr};
                          execle(then.path(), list[0], list[1], list[2], list[3], nullptr, nothing);
                        }};

// Two execs in a row, the shell's own among them.
Scenario by_way_of_a_shell{
    "executing/by-way-of-a-shell", hear_all, [](std::uint16_t port) {
      int fd = dial(port);
      send_all(fd, "before ");
      dup2(fd, 1);
      close(fd);
      execl("/bin/sh", "sh", "-c",
            "echo shell; (echo subshell); /bin/echo child; exec /bin/echo exec", nullptr);
    }};

Continuation read_the_rest{"read-the-rest", [](int fd) { note_rest(fd); }};
Scenario half_closed{"executing/half-closed",
                     [](int listener) {
                       int fd = take(listener);
                       note_rest(fd);
                       send_all(fd, pattern(5000));
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       send_all(fd, "question");
                       note("shutdown", shutdown(fd, SHUT_WR));
                       execute({"read-the-rest", fd});
                     }};

// A peer that does not read: what the kernel did not take goes with the session.
constexpr std::size_t kMuch = 4 << 20;
Continuation send_the_rest{"send-the-rest", [](int fd) {
                             meet();
                             fcntl(fd, F_SETFL, 0);
                             std::size_t sent = told();
                             note("sent",
                                  send_all(fd, std::string_view(pattern(kMuch)).substr(sent)));
                           }};
Scenario owing{"executing/with-bytes-owed",
               [](int listener) {
                 int fd = take(listener);
                 std::uint64_t sent = told();
                 meet();
                 tell(sent);
                 note_rest(fd);
               },
               [](std::uint16_t port) {
                 int fd = dial(port);
                 make_nonblocking(fd);
                 std::string bytes = pattern(kMuch);
                 std::size_t sent = 0;
                 ssize_t got = 0;
                 while (sent < kMuch) {
                   got = send(fd, bytes.data() + sent, kMuch - sent, 0);
                   if (got < 0) break;
                   sent += static_cast<std::size_t>(got);
                 }
                 tell(sent);
                 execute({"send-the-rest", fd});
               }};

Continuation ask_all{"ask-all", [](int last) {
                       long good = 0;
                       for (int fd = 20; fd <= last; ++fd) good += ask(fd, "of the next image");
                       note("good", good);
                       meet();
                     }};
Scenario many{"executing/many-connections",
              [](int listener) {
                for (int i = 0; i < 40; ++i) {
                  std::thread([fd = take(listener)] {
                    char buffer[100];
                    for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
                      send_all(fd, {buffer, static_cast<std::size_t>(got)});
                    }
                    close(fd);
                  }).detach();
                }
                meet();
                meet();
              },
              [](std::uint16_t port) {
                for (int to = 20; to < 60; ++to) {
                  int fd = dial(port);
                  dup2(fd, to);
                  close(fd);
                  note("asked", ask(to, "of the first image"));
                }
                meet();
                execute({"ask-all", 59});
              }};

// Another thread waits in recv() when the image goes.
Scenario threads{"executing/while-a-thread-receives", echo, [](std::uint16_t port) {
                   static int fd = dial(port);
                   note("asked", ask(fd, "the first"));
                   std::thread([] {
                     char c;
                     recv(fd, &c, 1, 0);
                   }).detach();
                   execute({"ask-again", fd});
                 }};

// Not found, and found but no program: the connection stays as it was.
Scenario fails{
    "executing/what-cannot-be-executed", echo, [](std::uint16_t port) {
      int fd = dial(port);
      note("asked", ask(fd, "before"));
      char path[] = "/tmp/behaviour-XXXXXX";
      int file = mkstemp(path);
      note("write", write(file, "\1no program", 11));
      fchmod(file, 0700);
      close(file);
      note("execl", execl(path, "x", nullptr));
      note("asked", ask(fd, "in between"));
      pid_t child = 0;
      char *arguments[] = {path, nullptr};
      note("posix_spawn", posix_spawn(&child, path, nullptr, nullptr, arguments, environ));
      unlink(path);
      note("posix_spawn", posix_spawn(&child, path, nullptr, nullptr, arguments, environ));
      note("asked", ask(fd, "after"));
    }};

// --- shared with another image
// ----------------------------------------------------------------------

// Turns are given over pipes at fixed numbers.
constexpr int kToChild = 150, kToParent = 160;
void make_turns() {
  for (int at : {kToChild, kToParent}) {
    int ends[2];
    if (pipe(ends) != 0) _exit(96);
    dup2(ends[0], at);
    dup2(ends[1], at + 1);
    close(ends[0]);
    close(ends[1]);
  }
}
void give(int at) {
  if (write(at + 1, "t", 1) != 1) _exit(96);
}
void await(int at) {
  char c;
  if (read(at, &c, 1) != 1) _exit(96);
}

constexpr unsigned kTurns = 10;
Continuation take_turns{"take-turns", [](int fd) {
                          call_myself("child");
                          for (unsigned i = 0; i < kTurns; ++i) {
                            await(kToChild);
                            note("asked", ask(fd, pattern(3000, 2 * i + 1)));
                            give(kToParent);
                          }
                        }};
void share_in_turns(int fd, pid_t child) {
  for (unsigned i = 0; i < kTurns; ++i) {
    note("asked", ask(fd, pattern(3000, 2 * i)));
    give(kToChild);
    await(kToParent);
  }
  note_status(child);
  note("last", ask(fd, "after the child"));
}

Scenario forked{"executing/fork-and-turns", echo, [](std::uint16_t port) {
                  make_turns();
                  int fd = dial(port);
                  note("asked", ask(fd, "before the fork"));
                  Then then("take-turns", fd);
                  pid_t child = fork();
                  if (child == 0) {
                    execv(then.path(), then.arguments());
                    _exit(1);
                  }
                  share_in_turns(fd, child);
                }};

Scenario vforked{"executing/vfork-and-turns", echo, [](std::uint16_t port) {
                   make_turns();
                   int fd = dial(port);
                   note("asked", ask(fd, "before the vfork"));
                   Then then("take-turns", fd);
                   pid_t child = vfork();
                   if (child == 0) {
                     execv(then.path(), then.arguments());
                     _exit(1);
                   }
                   share_in_turns(fd, child);
                 }};

Scenario spawned{
    "executing/spawn-and-turns", echo, [](std::uint16_t port) {
      make_turns();
      int fd = dial(port, SOCK_CLOEXEC);
      note("asked", ask(fd, "before the spawn"));
      posix_spawn_file_actions_t actions;
      posix_spawn_file_actions_init(&actions);
      posix_spawn_file_actions_adddup2(&actions, fd, 30);
      Then then("take-turns", 30);
      pid_t child = 0;
      note("spawn", posix_spawn(&child, then.path(), &actions, nullptr, then.arguments(), environ));
      share_in_turns(fd, child);
    }};

// The parent lets go before the child has begun: the end is the child's to tell.
void serve_with_cat(int listener, pid_t (*start)(int fd)) {
  int fd = take(listener);
  note_data("heard", receive_exactly(fd, 5));
  pid_t child = start(fd);
  note("close", close(fd));
  note_status(child);
}
void ask_cat(std::uint16_t port) {
  int fd = dial(port);
  send_all(fd, "hello");
  send_all(fd, pattern(100000));
  shutdown(fd, SHUT_WR);
  note_rest(fd);
}

Scenario fork_cat{"executing/fork-cat",
                  [](int listener) {
                    serve_with_cat(listener, [](int fd) {
                      pid_t child = fork();
                      if (child == 0) {
                        dup2(fd, 0);
                        dup2(fd, 1);
                        close_range(3, ~0u, 0);
                        execl("/bin/cat", "cat", nullptr);
                        _exit(1);
                      }
                      return child;
                    });
                  },
                  ask_cat};

Scenario vfork_cat{"executing/vfork-cat",
                   [](int listener) {
                     serve_with_cat(listener, [](int fd) {
                       pid_t child = vfork();
                       if (child == 0) {
                         dup2(fd, 0);
                         dup2(fd, 1);
                         close_range(3, ~0u, 0);
                         execl("/bin/cat", "cat", nullptr);
                         _exit(1);
                       }
                       return child;
                     });
                   },
                   ask_cat};

Scenario spawn_cat{"executing/spawn-cat",
                   [](int listener) {
                     serve_with_cat(listener, [](int fd) {
                       posix_spawn_file_actions_t actions;
                       posix_spawn_file_actions_init(&actions);
                       posix_spawn_file_actions_adddup2(&actions, fd, 0);
                       posix_spawn_file_actions_adddup2(&actions, fd, 1);
                       posix_spawn_file_actions_addclose(&actions, fd);
                       char name[] = "cat";
                       char *arguments[] = {name, nullptr};
                       pid_t child = 0;
                       posix_spawnp(&child, "cat", &actions, nullptr, arguments, environ);
                       return child;
                     });
                   },
                   ask_cat};

// The child's image ends without a word; the parent's connection is none the worse for it.
Scenario bystander{"executing/one-that-does-not-care", echo, [](std::uint16_t port) {
                     int fd = dial(port);
                     note("asked", ask(fd, "before"));
                     for (int i = 0; i < 3; ++i) {
                       pid_t child = i == 0 ? fork() : vfork();
                       if (child == 0) {
                         execl("/bin/true", "true", nullptr);
                         _exit(1);
                       }
                       note_status(child);
                       note("asked", ask(fd, "in between"));
                     }
                     note("shutdown", shutdown(fd, SHUT_WR));
                     note_rest(fd);
                   }};

}  // namespace
