// fork, exec, spawn.
#include <spawn.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

// A token between a parent and its children.
struct Token {
  int ends[2];
  Token() {
    if (pipe(ends) != 0) _exit(96);
  }
  void give() {
    if (write(ends[1], "t", 1) != 1) _exit(96);
  }
  void await() {
    char c;
    if (read(ends[0], &c, 1) != 1) _exit(96);
  }
};

void note_status(pid_t child) {
  int status = -1;
  note("waitpid", waitpid(child, &status, 0) == child);
  note("status", status);
}

void hear_all(int listener) {
  int fd = take(listener);
  note_rest(fd);
}

void ask_and_listen(std::uint16_t port) {
  int fd = dial(port);
  send_all(fd, "question");
  shutdown(fd, SHUT_WR);
  note_rest(fd);
}

// accept, fork, close: the child serves.
Scenario forking_server{"processes/forking-server",
                        [](int listener) {
                          for (int i = 0; i < 5; ++i) {
                            int fd = take(listener);
                            pid_t child = fork();
                            if (child == 0) {
                              char name[2] = {static_cast<char>('a' + i), 0};
                              call_myself(name);
                              std::string heard = receive_exactly(fd, 8);
                              note_data("heard", heard);
                              send_all(fd, "answer " + heard);
                              _exit(i);
                            }
                            note("close", close(fd));
                            note_status(child);
                          }
                        },
                        [](std::uint16_t port) {
                          for (int i = 0; i < 5; ++i) ask_and_listen(port);
                        }};

// Each fork is the end of an arena: a server that forks for each connection does not run out of them.
Scenario many_forks{"processes/more-forks-than-arenas",
                    [](int listener) {
                      for (int i = 0; i < 80; ++i) {
                        int fd = take(listener);
                        pid_t child = fork();
                        if (child == 0) {
                          send_all(fd, receive_exactly(fd, 8));
                          _exit(0);
                        }
                        close(fd);
                        note_status(child);
                      }
                    },
                    [](std::uint16_t port) {
                      for (int i = 0; i < 80; ++i) ask_and_listen(port);
                    }};

// The parent closes in its own time, after the child has long ended.
Scenario late_parent{"processes/parent-closes-last",
                     [](int listener) {
                       int fd = take(listener);
                       pid_t child = fork();
                       if (child == 0) {
                         call_myself("child");
                         note_data("heard", receive_exactly(fd, 8));
                         note("answer", send(fd, "from the child", 14, 0));
                         _exit(0);
                       }
                       note_status(child);
                       note("and", send(fd, ", and the parent", 16, 0));
                       close(fd);
                     },
                     ask_and_listen};

Scenario late_child{"processes/child-closes-last",
                    [](int listener) {
                      int fd = take(listener);
                      Token token;
                      note_data("heard", receive_exactly(fd, 8));
                      if (fork() == 0) {
                        call_myself("child");
                        token.await();
                        note("answer", send(fd, "from the child", 14, 0));
                        close(fd);
                        _exit(0);
                      }
                      note("first", send(fd, "the parent, ", 12, 0));
                      note("close", close(fd));
                      token.give();
                      note("wait", wait(nullptr) > 0);
                    },
                    ask_and_listen};

// Both use an established session, by turns, in both directions.
Scenario turns{"processes/taking-turns",
               [](int listener) {
                 int fd = take(listener);
                 for (unsigned i = 0; i < 20; ++i) {
                   if (receive_exactly(fd, 3000) != pattern(3000, i)) note("not as sent", i);
                   send_all(fd, pattern(2000, i + 100));
                 }
                 note_rest(fd);
               },
               [](std::uint16_t port) {
                 int fd = dial(port);
                 Token to_child, to_parent;
                 send_all(fd, pattern(3000, 0));
                 note("first", receive_exactly(fd, 2000) == pattern(2000, 100));
                 pid_t child = fork();
                 if (child == 0) call_myself("child");
                 for (unsigned i = 1; i < 20; ++i) {
                   bool mine = (i % 2 == 1) == (child == 0);
                   if (!mine) continue;
                   if (i > 1) (child == 0 ? to_child : to_parent).await();
                   note("sent", send_all(fd, pattern(3000, i)));
                   note("good", receive_exactly(fd, 2000) == pattern(2000, i + 100));
                   (child == 0 ? to_parent : to_child).give();
                 }
                 if (child == 0) _exit(0);
                 note_status(child);
                 close(fd);
               }};

// The handshake is under way, and its owner is the parent.
Scenario during{"processes/fork-during-the-handshake",
                [](int listener) {
                  meet();  // forked before the connection is accepted
                  int fd = take(listener);
                  note_data("heard", receive_exactly(fd, 20));
                  send_all(fd, "answer");
                  note_rest(fd);
                },
                [](std::uint16_t port) {
                  int fd = dial(port);
                  note("early", send(fd, "parent's, ", 10, 0));
                  Token token;
                  pid_t child = fork();
                  if (child == 0) {
                    call_myself("child");
                    note("early too", send(fd, "child's . ", 10, 0));
                    token.give();
                    note_data("answer", receive_exactly(fd, 6));
                    _exit(0);
                  }
                  token.await();
                  meet();
                  note_status(child);
                  note("last", send(fd, "last", 4, 0));
                  close(fd);
                }};

// Before a process touches what it accepted, it forks twice.
Scenario prefork{"processes/accept-in-children",
                 [](int listener) {
                   pid_t children[2];
                   for (int i = 0; i < 2; ++i) {
                     children[i] = fork();
                     if (children[i] == 0) {
                       int fd = take(listener);
                       std::string heard = receive_exactly(fd, 8);
                       send_all(fd, "you said " + heard);
                       close(fd);
                       _exit(heard == "question" ? 0 : 1);
                     }
                   }
                   for (pid_t child : children) note_status(child);
                 },
                 [](std::uint16_t port) {
                   ask_and_listen(port);
                   ask_and_listen(port);
                 }};

Scenario inetd{"processes/inetd-cat",
               [](int listener) {
                 int fd = take(listener);
                 pid_t child = fork();
                 if (child == 0) {
                   dup2(fd, 0);
                   dup2(fd, 1);
                   close(fd);
                   execl("/bin/cat", "cat", nullptr);
                   _exit(1);
                 }
                 close(fd);
                 note_status(child);
               },
               ask_and_listen};

Scenario spawned{"processes/posix-spawn-cat",
                 [](int listener) {
                   int fd = take(listener);
                   posix_spawn_file_actions_t actions;
                   posix_spawn_file_actions_init(&actions);
                   posix_spawn_file_actions_adddup2(&actions, fd, 0);
                   posix_spawn_file_actions_adddup2(&actions, fd, 1);
                   posix_spawn_file_actions_addclose(&actions, fd);
                   char name[] = "cat";
                   char *arguments[] = {name, nullptr};
                   pid_t child = 0;
                   note("spawn",
                        posix_spawn(&child, "/bin/cat", &actions, nullptr, arguments, environ));
                   close(fd);
                   note_status(child);
                 },
                 ask_and_listen};

// Programs started while a session lives, which they have nothing to do with.
Scenario bystanders{"processes/others-started-meanwhile", hear_all, [](std::uint16_t port) {
                      int fd = dial(port, SOCK_CLOEXEC);
                      send_all(fd, "before ");
                      pid_t child = vfork();
                      if (child == 0) {
                        execl("/bin/true", "true", nullptr);
                        _exit(1);
                      }
                      note_status(child);
                      send_all(fd, "vfork, ");
                      note("system", system("exit 7"));
                      send_all(fd, "system, ");
                      FILE *pipe_from = popen("echo popen", "r");
                      char line[20] = "";
                      if (fgets(line, sizeof(line), pipe_from) != nullptr) note_data("line", line);
                      note("pclose", pclose(pipe_from));
                      child = vfork();
                      if (child == 0) {
                        close(fd);
                        _exit(0);
                      }
                      note_status(child);
                      note("send", send(fd, "after", 5, 0));
                    }};

// The child of a fork starts another program; the parent's session goes on.
Scenario fork_exec{"processes/fork-and-exec-meanwhile",
                   [](int listener) {
                     int fd = take(listener);
                     note_data("heard", receive_exactly(fd, 8));
                     pid_t child = fork();
                     if (child == 0) {
                       close(fd);
                       execl("/bin/true", "true", nullptr);
                       _exit(1);
                     }
                     note_status(child);
                     note("answer", send(fd, "answer", 6, 0));
                     note_rest(fd);
                   },
                   ask_and_listen};

Scenario exec_failed{"processes/exec-fails", hear_all, [](std::uint16_t port) {
                       int fd = dial(port);
                       send_all(fd, "before ");
                       note("exec", execl("/does/not/exist", "x", nullptr));
                       note("send", send(fd, "after", 5, MSG_NOSIGNAL));
                     }};

Scenario exec_failed_cloexec{"processes/exec-fails-close-on-exec", hear_all,
                             [](std::uint16_t port) {
                               int fd = dial(port, SOCK_CLOEXEC);
                               send_all(fd, "before ");
                               note("exec", execl("/does/not/exist", "x", nullptr));
                               note("send", send(fd, "after", 5, MSG_NOSIGNAL));
                             }};

}  // namespace
