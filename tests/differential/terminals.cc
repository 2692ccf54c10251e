// Library functions that put something else on 0 to 2 by themselves, where a connection is:
// daemon(), login_tty() and forkpty(), as a server does that inetd started.
#include <pty.h>
#include <utmp.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

void take_as_standard_streams(int listener) {
  int fd = take(listener);
  for (int stream = 0; stream <= 2; ++stream) dup2(fd, stream);
  close(fd);
  note("greeting", write(1, "hello ", 6));
}

std::string read_exactly(int fd, std::size_t length) {
  std::string bytes(length, '\0');
  std::size_t have = 0;
  for (ssize_t got = 1;
       got > 0 && have<length; have += got> 0 ? static_cast<std::size_t>(got) : 0) {
    got = read(fd, bytes.data() + have, length - have);
  }
  bytes.resize(have);
  return bytes;
}

void note_streams() {
  char byte = 0;
  note("written", write(1, "after", 5));
  for (int stream = 0; stream <= 2; ++stream) note("terminal", isatty(stream));
  if (!isatty(0)) note("read", read(0, &byte, 1));
}

void hear_all(std::uint16_t port) {
  int fd = dial(port);
  note_rest(fd);
}

Scenario as_daemon{"terminals/daemon",
                   [](int listener) {
                     pid_t first = fork();
                     if (first == 0) {
                       call_myself("daemon");
                       take_as_standard_streams(listener);
                       note("daemon", daemon(1, 0));
                       note_streams();
                       tell(0);
                       _exit(0);
                     }
                     int status = -1;
                     note("first child", waitpid(first, &status, 0) == first);
                     note("status", status);
                   },
                   [](std::uint16_t port) {
                     hear_all(port);
                     told();
                   }};

Scenario daemon_with_streams{"terminals/daemon-that-keeps-its-streams",
                             [](int listener) {
                               pid_t first = fork();
                               if (first == 0) {
                                 call_myself("daemon");
                                 take_as_standard_streams(listener);
                                 note("daemon", daemon(0, 1));
                                 char folder[64] = {};
                                 say("folder", getcwd(folder, sizeof folder));
                                 note("written", write(1, "after", 5));
                                 tell(0);
                                 _exit(0);
                               }
                               int status = -1;
                               note("first child", waitpid(first, &status, 0) == first);
                               note("status", status);
                             },
                             [](std::uint16_t port) {
                               hear_all(port);
                               told();
                             }};

Scenario on_a_terminal{"terminals/login_tty",
                       [](int listener) {
                         int master = -1, slave = -1;
                         note("openpty", openpty(&master, &slave, nullptr, nullptr, nullptr));
                         pid_t child = fork();
                         if (child == 0) {
                           call_myself("child");
                           close(master);
                           take_as_standard_streams(listener);
                           note("login_tty", login_tty(slave));
                             note_streams();
                           tell(0);
                           _exit(0);
                         }
                         close(slave);
                         note_data("on the terminal", read_exactly(master, 5));
                         note("child", waitpid(child, nullptr, 0) == child);
                       },
                       [](std::uint16_t port) {
                         hear_all(port);
                         told();
                       }};

// As telnetd: the shell is on a terminal, its parent between that and the connection.
Scenario between{"terminals/forkpty",
                 [](int listener) {
                   take_as_standard_streams(listener);
                   int master = -1;
                   pid_t shell = forkpty(&master, nullptr, nullptr, nullptr);
                   if (shell == 0) {
                     call_myself("shell");
                     note_streams();
                     char word[8] = {};
                     note("read", read(0, word, sizeof word));
                     note_data("word", word);
                     _exit(0);
                   }
                   note("greater than 2", master > 2);
                   std::string said = read_exactly(master, 5);
                   note("passed on", send_all(1, said));
                   note_data("question", receive_exactly(0, 5));
                   note("passed in", write(master, "quit\n", 5));
                   note("shell", waitpid(shell, nullptr, 0) == shell);
                   for (int stream = 0; stream <= 2; ++stream) close(stream);
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   note_data("heard", receive_exactly(fd, 11));
                   send_all(fd, "quit\n");
                   note_rest(fd);
                 }};

}  // namespace
