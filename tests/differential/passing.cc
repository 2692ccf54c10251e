// A connection goes on in a process it is passed to (SCM_RIGHTS), or that takes it.
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

// Answers what it hears, piece by piece.
void answer(int fd) {
  char buffer[4096];
  for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
    send_all(fd, {buffer, static_cast<std::size_t>(got)});
  }
}
void echo(int listener) { answer(take(listener)); }

bool ask(int fd, std::string_view question) {
  return send_all(fd, question) && receive_exactly(fd, question.size()) == question;
}

void note_status(pid_t child) {
  int status = -1;
  note("waitpid", waitpid(child, &status, 0) == child);
  note("status", status);
}

// A program of its own at the other end of a socket: what this process connects to after it was
// started is none of its business, until it is passed to it.
struct Program {
  pid_t process;
  int channel;
};
Program start(const char *name, int type = SOCK_SEQPACKET) {
  int pair[2];
  socketpair(AF_UNIX, type, 0, pair);
  pid_t child = fork();
  if (child == 0) {
    close(pair[0]);
    Then then(name, pair[1]);
    execv(then.path(), then.arguments());
    _exit(1);
  }
  close(pair[1]);
  return {child, pair[0]};
}

// Turns are taken in bytes over the channel.
void hand_over_turn(int channel) {
  if (write(channel, "t", 1) != 1) note("turn", -1);
}
void wait_for_turn(int channel) {
  char turn;
  if (read(channel, &turn, 1) != 1) note("no turn", 0);
}

// Addresses nobody may read: the kernel's answer, and nothing is lost.
Scenario bad_addresses{
    "passing/bad-addresses", echo, [](std::uint16_t port) {
      int fd = dial(port);
      note("asked", ask(fd, "before"));
      int pair[2];
      socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
      void *nothing = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      char data = 'x';
      iovec part{&data, 1};
      msghdr message{nullptr, 0, &part, 1, nothing, 64, 0};
      note("control data", sendmsg(pair[0], &message, 0));
      message.msg_control = reinterpret_cast<void *>(1);
      note("control data", sendmsg(pair[0], &message, 0));
      message.msg_control = nullptr;
      note("no control data", sendmsg(pair[0], &message, 0));
      note("message", sendmsg(pair[0], static_cast<msghdr *>(nothing), 0));
      note("null", sendmsg(pair[0], nullptr, 0));
      message.msg_controllen = 0;
      mmsghdr two[] = {{message, 0}, {message, 0}};
      two[1].msg_hdr.msg_control = nothing;
      two[1].msg_hdr.msg_controllen = 64;
      note("the second", sendmmsg(pair[0], two, 2, 0));
      note("messages", sendmmsg(pair[0], static_cast<mmsghdr *>(nothing), 2, 0));
      message.msg_control = nothing;
      message.msg_controllen = 64;
      note("received", recvmsg(pair[1], &message, 0));
      note("received", recvmsg(pair[1], static_cast<msghdr *>(nothing), MSG_DONTWAIT));
      note("passed", pass(pair[0], fd));
      note("close", close(fd));
      int back = -1;
      while (recv(pair[1], &data, 1, MSG_PEEK) == 1 && (back = unpack(pair[1], 0)) <= 0) {
      }
      note("asked", ask(back, "after"));
    }};

// The child has the connection from the fork, closes it, and gets it back later.
Scenario passed_on{"passing/to-a-child", echo, [](std::uint16_t port) {
                     int fd = dial(port);
                     note("asked", ask(fd, "before"));
                     int pair[2];
                     socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
                     pid_t child = fork();
                     if (child == 0) {
                       call_myself("child");
                       close(fd);
                       close(pair[0]);
                       int mine = unpack(pair[1], 0);
                       note("asked", ask(mine, "by the child"));
                       note("shutdown", shutdown(mine, SHUT_WR));
                       note_rest(mine);
                       _exit(0);
                     }
                     note("passed", pass(pair[0], fd));
                     note("close", close(fd));
                     note_status(child);
                   }};

// Looked at twice, then taken: three descriptors; and a message that is not sent takes nothing
// along.
Scenario looked_at{"passing/looked-at-first", echo, [](std::uint16_t port) {
                     int fd = dial(port);
                     note("asked", ask(fd, "before"));
                     int pair[2];
                     socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
                     note("passed", pass(pair[0], fd));
                     int first = unpack(pair[1], MSG_PEEK), second = unpack(pair[1], MSG_PEEK);
                     note("close", close(fd));
                     int third = unpack(pair[1], 0);
                     note("asked", ask(first, "the first"));
                     note("close", close(first));
                     close(pair[1]);
                     note("passed", pass(pair[0], second));
                     note("close", close(second));
                     note("asked", ask(third, "the last"));
                     note("shutdown", shutdown(third, SHUT_WR));
                     note_rest(third);
                   }};

Continuation in_turns{"in-turns", [](int channel) {
                        call_myself("program");
                        int fd = unpack(channel, 0);
                        for (int i = 0; i < 3; ++i) {
                          note("asked", ask(fd, pattern(3000, static_cast<unsigned>(i))));
                          hand_over_turn(channel);
                          wait_for_turn(channel);
                        }
                        note("the last one asked", ask(fd, "the end"));
                        note("shutdown", shutdown(fd, SHUT_WR));
                        note_rest(fd);
                      }};
Scenario turns{"passing/used-in-turns-by-two-programs", echo, [](std::uint16_t port) {
                 Program other = start("in-turns");
                 int fd = dial(port);
                 note("asked", ask(fd, "before"));
                 note("passed", pass(other.channel, fd));
                 for (int i = 0; i < 3; ++i) {
                   wait_for_turn(other.channel);
                   note("asked", ask(fd, pattern(20000, static_cast<unsigned>(i))));
                   if (i == 2) note("close", close(fd));
                   hand_over_turn(other.channel);
                 }
                 note_status(other.process);
               }};

// Nobody has written on it: the handshake is the passer's, the first question the receiver's.
Continuation ask_first{"ask-first", [](int channel) {
                         call_myself("program");
                         int fd = unpack(channel, 0);
                         note("asked", ask(fd, "the only question"));
                         note("shutdown", shutdown(fd, SHUT_WR));
                         note_rest(fd);
                         hand_over_turn(channel);
                       }};
Scenario never_used{"passing/just-connected", echo, [](std::uint16_t port) {
                      Program other = start("ask-first");
                      int fd = dial(port);
                      note("passed", pass(other.channel, fd));
                      wait_for_turn(other.channel);
                      note("close", close(fd));
                      note_status(other.process);
                    }};
// Another connection takes the place of the one that was passed and closed; then that is passed,
// too.
Scenario one_by_one{"passing/many-to-one-program",
                    [](int listener) {
                      for (int i = 0; i < 40; ++i) {
                        int fd = take(listener);
                        answer(fd);
                        close(fd);
                      }
                    },
                    [](std::uint16_t port) {
                      Program others[] = {start("ask-first-20-times"), start("ask-first-20-times")};
                      for (unsigned i = 0; i < 40; ++i) {
                        int fd = dial(port);
                        note("asked", ask(fd, "before"));
                        note("passed", pass(others[i % 2].channel, fd));
                        note("close", close(fd));
                        wait_for_turn(others[i % 2].channel);
                      }
                      note_status(others[0].process);
                      note_status(others[1].process);
                    }};
Continuation ask_first_often{"ask-first-20-times", [](int channel) {
                               call_myself("programs");
                               for (int i = 0; i < 20; ++i) {
                                 int fd = unpack(channel, i % 2 == 0 ? 0 : MSG_PEEK);
                                 if (i % 2 != 0) {
                                   note("close", close(fd));
                                   fd = unpack(channel, 0);
                                 }
                                 note("asked", ask(fd, pattern(500, static_cast<unsigned>(i))));
                                 note("close", close(fd));
                                 hand_over_turn(channel);
                               }
                             }};

// Closed before the handshake is over, by who began it: whichever of the two lets go last says so.
Scenario closed_at_once{
    "passing/many-closed-at-once",
    [](int listener) {
      for (int i = 0; i < 40; ++i) {
        int fd = take(listener);
        send_all(fd, receive_exactly(fd, 500));
        note_rest(fd);
        close(fd);
      }
    },
    [](std::uint16_t port) {
      Program others[] = {start("ask-first-20-times"), start("ask-first-20-times")};
      for (unsigned i = 0; i < 40; ++i) {
        int fd = dial(port);
        note("passed", pass(others[i % 2].channel, fd));
        note("close", close(fd));
        wait_for_turn(others[i % 2].channel);
      }
      note_status(others[0].process);
      note_status(others[1].process);
    }};

// The server's side: accepted here, served there, untouched or half a question on.
Continuation serve{"serve", [](int channel) {
                     call_myself("program");
                     int fd = unpack(channel, 0);
                     answer(fd);
                     note("close", close(fd));
                   }};
void ask_twice(std::uint16_t port) {
  int fd = dial(port);
  note("asked", ask(fd, "first"));
  note("asked", ask(fd, pattern(30000)));
  note("shutdown", shutdown(fd, SHUT_WR));
  note_rest(fd);
}
Scenario accepted_untouched{"passing/accepted-and-untouched",
                            [](int listener) {
                              Program other = start("serve");
                              int fd = take(listener);
                              note("passed", pass(other.channel, fd));
                              note_status(other.process);
                              note("close", close(fd));
                            },
                            ask_twice};
// The time that inlay waits for the acceptor to decide is long over.
Scenario accepted_late{"passing/accepted-and-passed-late",
                       [](int listener) {
                         Program other = start("serve");
                         int fd = take(listener);
                         pollfd next{listener, POLLIN, 0};
                         note("nobody else", poll(&next, 1, 300));
                         note("passed", pass(other.channel, fd));
                         note("close", close(fd));
                         note_status(other.process);
                       },
                       ask_twice};
Scenario accepted_begun{"passing/accepted-and-begun",
                        [](int listener) {
                          Program other = start("serve");
                          int fd = take(listener);
                          note_data("heard", receive_exactly(fd, 3));
                          send_all(fd, "fir");
                          note("passed", pass(other.channel, fd));
                          note("close", close(fd));
                          note_status(other.process);
                        },
                        ask_twice};

// A socket that either end was made for by a third process, and no parent: the kernel names others.
Scenario through_another{"passing/by-a-child-that-is-gone", echo, [](std::uint16_t port) {
                           Program other = start("ask-first");
                           int fd = dial(port);
                           note("asked", ask(fd, "before"));
                           pid_t broker = fork();
                           if (broker == 0) {
                             call_myself("broker");
                             note("asked", ask(fd, "by the broker"));
                             note("passed", pass(other.channel, fd));
                             _exit(0);
                           }
                           note_status(broker);
                           wait_for_turn(other.channel);
                           note("close", close(fd));
                           note_status(other.process);
                         }};
// The connection is the broker's alone, which the channel's credentials do not name.
Scenario by_another{"passing/a-childs-own", echo, [](std::uint16_t port) {
                      Program other = start("ask-first");
                      pid_t broker = fork();
                      if (broker == 0) {
                        call_myself("broker");
                        int fd = dial(port);
                        note("asked", ask(fd, "by the broker"));
                        note("passed", pass(other.channel, fd));
                        wait_for_turn(other.channel);
                        note("close", close(fd));
                        _exit(0);
                      }
                      note_status(broker);
                      note_status(other.process);
                    }};

// The process that receives it knows the sender by no number, nor the sender it.
Scenario far_away{"passing/to-another-pid-namespace", echo, [](std::uint16_t port) {
                    note("unshare", unshare(CLONE_NEWPID));
                    Program program = start("uses-what-it-gets-far-away");
                    int fd = dial(port);
                    note("asked", ask(fd, "before"));
                    note("passed", pass(program.channel, fd));
                    wait_for_turn(program.channel);
                    note("asked", ask(fd, "meanwhile"));
                    note("close", close(fd));
                    hand_over_turn(program.channel);
                    note_status(program.process);
                  }};
Continuation used_far_away{"uses-what-it-gets-far-away", [](int channel) {
                             call_myself("program");
                             note("number", getpid());
                             int fd = unpack(channel, 0);
                             note("asked", ask(fd, "far away"));
                             hand_over_turn(channel);
                             wait_for_turn(channel);
                             note("asked", ask(fd, "alone"));
                             note("shutdown", shutdown(fd, SHUT_WR));
                             note_rest(fd);
                           }};

// What came is passed on, to a third program.
Continuation relay{"relay", [](int channel) {
                     call_myself("relay");
                     int fd = unpack(channel, 0);
                     Program last = start("ask-first");
                     note("asked", ask(fd, "by the relay"));
                     note("passed", pass(last.channel, fd));
                     note("close", close(fd));
                     hand_over_turn(channel);
                     note_status(last.process);
                   }};
Scenario passed_on_again{"passing/twice", echo, [](std::uint16_t port) {
                           Program other = start("relay");
                           int fd = dial(port);
                           note("asked", ask(fd, "before"));
                           note("passed", pass(other.channel, fd));
                           note("close", close(fd));
                           note_status(other.process);
                         }};

// What came survives a fork and another image, and connections of its own do not mix with it.
Continuation then_ask{"then-ask", [](int fd) {
                        call_myself("next image");
                        note("asked", ask(fd, "by the next image"));
                        note("shutdown", shutdown(fd, SHUT_WR));
                        note_rest(fd);
                      }};
Continuation fork_and_exec{"fork-and-exec", [](int channel) {
                             call_myself("program");
                             int fd = unpack(channel, 0);
                             note("asked", ask(fd, "by the program"));
                             pid_t child = fork();
                             if (child == 0) {
                               call_myself("its child");
                               note("asked", ask(fd, "by its child"));
                               _exit(0);
                             }
                             note_status(child);
                             sockaddr_in peer{};
                             socklen_t length = sizeof(peer);
                             getpeername(fd, reinterpret_cast<sockaddr *>(&peer), &length);
                             int own = dial(ntohs(peer.sin_port));
                             note("asked", ask(own, "on one of its own"));
                             note("asked", ask(fd, "by the program again"));
                             note("close", close(own));
                             Then then("then-ask", fd);
                             execv(then.path(), then.arguments());
                           }};
Scenario forked_and_executed{"passing/then-fork-and-exec",
                             [](int listener) {
                               int first = take(listener);
                               pid_t child = fork();
                               if (child == 0) {
                                 close(first);
                                 echo(listener);
                                 _exit(0);
                               }
                               answer(first);
                               note("waitpid", waitpid(child, nullptr, 0) == child);
                             },
                             [](std::uint16_t port) {
                               Program other = start("fork-and-exec");
                               int fd = dial(port);
                               note("asked", ask(fd, "before"));
                               note("passed", pass(other.channel, fd));
                               note("close", close(fd));
                               note_status(other.process);
                             }};

// Taken, not passed.
Continuation take_it{"take-it", [](int channel) {
                       call_myself("program");
                       int parent = static_cast<int>(syscall(SYS_pidfd_open, getppid(), 0));
                       int number = -1;
                       if (read(channel, &number, sizeof(number)) != sizeof(number))
                         note("read", -1);
                       int fd = static_cast<int>(syscall(SYS_pidfd_getfd, parent, number, 0));
                       note("taken", fd >= 0);
                       if (fd >= 0) note("asked", ask(fd, "by the taker"));
                     }};
Scenario taken{"passing/taken-by-pidfd-getfd", echo, [](std::uint16_t port) {
                 Program other = start("take-it");
                 int fd = dial(port);
                 note("asked", ask(fd, "before"));
                 note("told", write(other.channel, &fd, sizeof(fd)));
                 note_status(other.process);
                 note("asked", ask(fd, "after"));
               }};

// Started without a hook: the C library's own.
Continuation asks{"asks", [](int fd) {
                    call_myself("program");
                    note("asked", ask(fd, pattern(2000)));
                  }};
std::string command_for(int fd) {
  Then then("asks", fd);
  std::string command = "exec /proc/" + std::to_string(getpid()) + "/exe";
  for (char *const *argument = then.arguments() + 1; *argument != nullptr; ++argument) {
    command += std::string(" ") + *argument;
  }
  return command;
}
Scenario by_system{"passing/system", echo, [](std::uint16_t port) {
                     int fd = dial(port);
                     note("asked", ask(fd, "before"));
                     note("system", system(command_for(fd).c_str()));
                     note("system", system(("true; " + command_for(fd)).c_str()));
                     note("asked", ask(fd, "after"));
                   }};
Scenario by_popen{"passing/popen", echo, [](std::uint16_t port) {
                    int fd = dial(port);
                    note("asked", ask(fd, "before"));
                    FILE *stream = popen(command_for(fd).c_str(), "r");
                    note("pclose", pclose(stream));
                    note("asked", ask(fd, "after"));
                  }};

}  // namespace
