// Sharing a connection with processes in PID namespaces of their own: to them the others' process
// numbers mean nothing, and two of them may have the same.
#include <sched.h>
#include <spawn.h>
#include <sys/syscall.h>

#include <csignal>

#include "behaviour.h"

using namespace behaviour;

namespace {

void echo(int listener) {
  int fd = take(listener);
  char buffer[4096];
  for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) != 0;) {
    if (got < 0) return note("recv", got);
    send_all(fd, {buffer, static_cast<std::size_t>(got)});
  }
  note("orderly end", 0);
}

bool ask(int fd, std::string_view question) {
  return send_all(fd, question) && receive_exactly(fd, question.size()) == question;
}

void note_status(pid_t child) {
  int status = -1;
  note("waitpid", waitpid(child, &status, 0) == child);
  note("status", status);
}

// From now on children are in a namespace of their own; the first is process 1 there.
void leave_numbers() { note("unshare", unshare(CLONE_NEWPID)); }

struct Turns {
  int give[2], get[2];
  Turns() {
    if (pipe(give) != 0 || pipe(get) != 0) note("pipe", -1);
  }
  static void pass(int end) {
    if (write(end, "t", 1) != 1) note("turn", -1);
  }
  static void wait(int end) {
    char turn;
    if (read(end, &turn, 1) != 1) note("no turn", 0);
  }
};

// What inlay knows of processes must not mislead it: the child ends first.
Scenario child_first{"namespaces/the-child-closes-first", echo, [](std::uint16_t port) {
                       int fd = dial(port);
                       note("asked", ask(fd, "before"));
                       leave_numbers();
                       pid_t child = fork();
                       if (child == 0) {
                         call_myself("child");
                         note("pid", getpid());
                         note("asked", ask(fd, "by the child"));
                         _exit(0);
                       }
                       note_status(child);
                       note("asked", ask(fd, "after"));
                       note("close", close(fd));
                     }};

Scenario parent_first{"namespaces/the-parent-closes-first", echo, [](std::uint16_t port) {
                        int fd = dial(port);
                        note("asked", ask(fd, "before"));
                        leave_numbers();
                        Turns turns;
                        pid_t child = fork();
                        if (child == 0) {
                          call_myself("child");
                          note("asked", ask(fd, "by the child"));
                          Turns::pass(turns.give[1]);
                          Turns::wait(turns.get[0]);
                          note("asked", ask(fd, "by the child alone"));
                          note("close", close(fd));
                          _exit(0);
                        }
                        Turns::wait(turns.give[0]);
                        note("close", close(fd));
                        Turns::pass(turns.get[1]);
                        note_status(child);
                      }};

// The handshake is the parent's; the child waits for it.
Scenario just_connected{"namespaces/just-connected", echo, [](std::uint16_t port) {
                          leave_numbers();
                          int fd = dial(port);
                          pid_t child = fork();
                          if (child == 0) {
                            call_myself("child");
                            note("asked", ask(fd, "by the child"));
                            _exit(0);
                          }
                          note_status(child);
                          note("asked", ask(fd, "after"));
                          note("close", close(fd));
                        }};

// One that is killed holds nothing any more: the last to close is the last.
Scenario killed{"namespaces/the-child-is-killed", echo, [](std::uint16_t port) {
                  int fd = dial(port);
                  note("asked", ask(fd, "before"));
                  leave_numbers();
                  Turns turns;
                  pid_t child = fork();
                  if (child == 0) {
                    call_myself("child");
                    note("asked", ask(fd, "by the child"));
                    Turns::pass(turns.give[1]);
                    for (;;) pause();
                  }
                  Turns::wait(turns.give[0]);
                  note("kill", kill(child, SIGKILL));
                  note_status(child);
                  note("asked", ask(fd, "after"));
                  note("close", close(fd));
                }};
void echo_until_told(int listener) {
  echo(listener);
  told();  // nobody waits for the child
}
Scenario parent_killed{"namespaces/the-parent-is-killed", echo_until_told, [](std::uint16_t port) {
                         int fd = dial(port);
                         note("asked", ask(fd, "before"));
                         Turns turns;
                         pid_t parent = fork();
                         if (parent == 0) {
                           unshare(CLONE_NEWPID);
                           if (fork() != 0) {
                             for (;;) pause();
                           }
                           call_myself("child");
                           Turns::pass(turns.give[1]);
                           Turns::wait(turns.get[0]);
                           note("asked", ask(fd, "by the child"));
                           note("close", close(fd));
                           tell(0);
                           _exit(0);
                         }
                         Turns::wait(turns.give[0]);
                         note("kill", kill(parent, SIGKILL));
                         note_status(parent);
                         note("close", close(fd));
                         Turns::pass(turns.get[1]);
                       }};

// Two of the same number, at once: whoever mistook one for the other would get into its records.
constexpr unsigned kWords = 200, kWord = 37;
void send_as_first_process(int fd, unsigned seed) {
  unshare(CLONE_NEWPID);
  pid_t child = fork();
  if (child == 0) {
    bool sent = getpid() == 1;
    for (unsigned i = 0; i < kWords; ++i) sent &= send_all(fd, pattern(kWord, seed + i));
    _exit(sent ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  _exit(status == 0 ? 0 : 1);
}
Scenario namesakes{"namespaces/two-of-the-same-number",
                   [](int listener) {
                     int fd = take(listener);
                     long heard = 0;
                     char buffer[4096];
                     ssize_t got;
                     while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0) heard += got;
                     note("heard", heard);
                     note("end", got);
                   },
                   [](std::uint16_t port) {
                     int fd = dial(port);
                     send_all(fd, "begin");
                     pid_t children[2];
                     for (unsigned i = 0; i < 2; ++i) {
                       children[i] = fork();
                       if (children[i] == 0) send_as_first_process(fd, i * kWords);
                     }
                     for (pid_t child : children) note_status(child);
                     note("close", close(fd));
                   }};

// Children made past the C library's fork(): each goes on with its parent's connection, and makes
// one of its own, which takes a helper.
void be_child(int fd, std::uint16_t port) {
  call_myself("child");
  note("asked", ask(fd, "by the child"));
  int own = dial(port);
  note("asked", ask(own, "on its own"));
  note("close", close(own));
}
void ask_and_await(int fd, pid_t child) {
  note_status(child);
  note("asked", ask(fd, "after"));
  note("close", close(fd));
}
// One connection, and the child's meanwhile.
void echo_both(int listener) {
  int first = take(listener);
  auto answer = [](int fd, std::string_view question) {
    std::string heard = receive_exactly(fd, question.size());
    note("heard", heard == question);
    send_all(fd, heard);
  };
  answer(first, "before");
  answer(first, "by the child");
  int second = take(listener);
  answer(second, "on its own");
  note_rest(second);
  answer(first, "after");
  note_rest(first);
}
Scenario raw_clone{"namespaces/clone-by-number", echo_both, [](std::uint16_t port) {
                     int fd = dial(port);
                     note("asked", ask(fd, "before"));
                     auto child = static_cast<pid_t>(
                         syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWIPC | SIGCHLD, 0, 0, 0, 0));
                     if (child == 0) {
                       be_child(fd, port);
                       // The C library asks all threads it knows of to take part.
                       note("setuid", setuid(getuid()));
                       _exit(0);
                     }
                     ask_and_await(fd, child);
                   }};
struct Apart {
  int fd;
  std::uint16_t port;
};
Scenario by_clone{"namespaces/clone", echo_both, [](std::uint16_t port) {
                    int fd = dial(port);
                    note("asked", ask(fd, "before"));
                    Apart apart{fd, port};
                    auto run = [](void *argument) {
                      auto [its, there] = *static_cast<Apart *>(argument);
                      be_child(its, there);
                      return 7;
                    };
                    alignas(16) static char stack[256 * 1024];
                    pid_t child = clone(run, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, &apart);
                    ask_and_await(fd, child);
                  }};
// Nobody is told of this one.
Scenario quiet_fork{"namespaces/fork-without-handlers", echo_both, [](std::uint16_t port) {
                      int fd = dial(port);
                      note("asked", ask(fd, "before"));
                      pid_t child = _Fork();
                      if (child == 0) {
                        be_child(fd, port);
                        _exit(0);
                      }
                      ask_and_await(fd, child);
                    }};

// An image executed there.
Continuation go_on{"namespaces-go-on", [](int fd) {
                     call_myself("next image");
                     note("asked", ask(fd, "by the next image"));
                     note("close", close(fd));
                   }};
Scenario executed{"namespaces/fork-and-exec", echo, [](std::uint16_t port) {
                    int fd = dial(port);
                    note("asked", ask(fd, "before"));
                    leave_numbers();
                    Then then("namespaces-go-on", fd);
                    pid_t child = fork();
                    if (child == 0) {
                      execv(then.path(), then.arguments());
                      _exit(1);
                    }
                    note("close", close(fd));
                    note_status(child);
                  }};
Scenario spawned{"namespaces/posix-spawn", echo, [](std::uint16_t port) {
                   int fd = dial(port);
                   note("asked", ask(fd, "before"));
                   leave_numbers();
                   Then then("namespaces-go-on", fd);
                   pid_t child = -1;
                   note("spawned", posix_spawn(&child, then.path(), nullptr, nullptr,
                                               then.arguments(), environ));
                   note("close", close(fd));
                   note_status(child);
                 }};

}  // namespace
