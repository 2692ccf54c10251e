// Connections accepted for another program, as inetd does, and those that only look like it. The
// naps give a wrong helper the time to begin a handshake that is not its own.
#include <spawn.h>

#include <csignal>

#include "behaviour.h"

using namespace behaviour;

namespace {

constexpr int kNap = 300;  // milliseconds

void nap() { poll(nullptr, 0, kNap); }

void note_status(pid_t child) {
  int status = -1;
  note("waitpid", waitpid(child, &status, 0) == child);
  note("status", status);
}

void ask_and_listen(std::uint16_t port) {
  int fd = dial(port);
  send_all(fd, "question");
  shutdown(fd, SHUT_WR);
  note_rest(fd);
}

[[noreturn]] void become_cat(int fd) {
  dup2(fd, 0);
  dup2(0, 1);
  execl("/bin/cat", "cat", nullptr);
  _exit(1);
}

Scenario slow_vfork{"handing-on/slow-vfork-child",
                    [](int listener) {
                      int fd = take(listener);
                      pid_t child = vfork();
                      if (child == 0) {
                        nap();
                        become_cat(fd);
                      }
                      note_status(child);
                      note("close", close(fd));
                      char c;
                      note("standard input is its own", read(0, &c, 1));
                    },
                    ask_and_listen};

// The parent keeps its own, and waits.
Scenario slow_fork{"handing-on/slow-forked-child",
                   [](int listener) {
                     int fd = take(listener);
                     pid_t child = fork();
                     if (child == 0) {
                       nap();
                       become_cat(fd);
                     }
                     note_status(child);
                     note("close", close(fd));
                   },
                   ask_and_listen};

// The child has it on 0 long before it is replaced; the parent goes back to its listener.
Scenario slow_exec{"handing-on/slow-after-dup2",
                   [](int listener) {
                     int fd = take(listener);
                     pid_t child = fork();
                     if (child == 0) {
                       dup2(fd, 0);
                       dup2(0, 1);
                       for (int i = 0; i < 5; ++i) nap();
                       execl("/bin/cat", "cat", nullptr);
                       _exit(1);
                     }
                     pollfd next{listener, POLLIN, 0};
                     note("nobody else", poll(&next, 1, 4 * kNap));
                     note_status(child);
                     note("close", close(fd));
                   },
                   ask_and_listen};

Scenario slow_program{"handing-on/slow-spawned-program",
                      [](int listener) {
                        int fd = take(listener);
                        posix_spawn_file_actions_t actions;
                        posix_spawn_file_actions_init(&actions);
                        posix_spawn_file_actions_adddup2(&actions, fd, 0);
                        posix_spawn_file_actions_adddup2(&actions, fd, 1);
                        const char *arguments[] = {"sh", "-c", "sleep 0.5; exec cat", nullptr};
                        pid_t child = 0;
                        note("spawn", posix_spawn(&child, "/bin/sh", &actions, nullptr,
                                                  const_cast<char **>(arguments), environ));
                        pollfd next{listener, POLLIN, 0};
                        note("nobody else", poll(&next, 1, kNap));
                        note_status(child);
                        note("close", close(fd));
                      },
                      ask_and_listen};

// Nothing is handed on: whoever waits for data is not woken before there is some.
void hear_when_readable(int fd) {
  pollfd readable{fd, POLLIN, 0};
  note("poll", poll(&readable, 1, -1));
  char heard[8];
  ssize_t got = recv(fd, heard, sizeof(heard), MSG_DONTWAIT);
  note("recv", got);
  if (got > 0) note_data("heard", {heard, static_cast<std::size_t>(got)});
  send_all(fd, "answer");
}

void ask_late(std::uint16_t port) {
  int fd = dial(port);
  meet();  // the handshake's bytes are there, and the server polls
  nap();
  send_all(fd, "question");
  note_rest(fd);
}

Scenario bystander{"handing-on/forked-bystander",
                   [](int listener) {
                     int fd = take(listener);
                     pid_t child = fork();
                     if (child == 0) {
                       for (;;) pause();
                     }
                     meet();
                     hear_when_readable(fd);
                     kill(child, SIGKILL);
                     note_status(child);
                     close(fd);
                   },
                   ask_late};

Scenario bystander_program{"handing-on/spawned-bystander",
                           [](int listener) {
                             int fd = take(listener);
                             fcntl(fd, F_SETFD, FD_CLOEXEC);
                             pid_t child = fork();
                             if (child == 0) {
                               execl("/bin/true", "true", nullptr);
                               _exit(1);
                             }
                             note_status(child);
                             meet();
                             hear_when_readable(fd);
                             close(fd);
                           },
                           ask_late};

}  // namespace
