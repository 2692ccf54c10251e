// Where a process may find itself: without standard descriptors, in another root or namespace, with
// another user, at its limits, as a daemon.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

void echo(int listener) {
  int fd = take(listener);
  std::string heard = receive_exactly(fd, 8);
  note_data("heard", heard);
  send_all(fd, "answer " + heard);
  note_rest(fd);
}

void ask(std::uint16_t port) {
  int fd = dial(port);
  note("sent", send_all(fd, "question"));
  note_data("answer", receive_exactly(fd, 15));
  note("close", close(fd));
}

// An empty folder that goes away with the others of the run.
std::string empty_folder() {
  const char *home = getenv("TMPDIR");
  std::string folder = std::string(home != nullptr ? home : "/tmp") + "/root-XXXXXX";
  return mkdtemp(folder.data()) != nullptr ? folder : "";
}

// What needs privilege is tried in both runs alike.
void ask_in_another_root(std::uint16_t port) {
  int early = dial(port);
  send_all(early, "question");
  note("chroot", chroot(empty_folder().c_str()));
  note("chdir", chdir("/"));
  note_data("answer", receive_exactly(early, 15));
  note("close", close(early));
  ask(port);
}

void echo_twice(int listener) {
  echo(listener);
  echo(listener);
}

Scenario another_root{"surroundings/chroot", echo_twice, ask_in_another_root};

Scenario server_root{"surroundings/chrooted-server",
                     [](int listener) {
                       note("chroot", chroot(empty_folder().c_str()));
                       note("chdir", chdir("/"));
                       echo(listener);
                     },
                     ask};

// A server that drops root when it has its listener, as most do.
Scenario another_user{"surroundings/setuid-after-start",
                      [](int listener) {
                        note("setgid", setresgid(65534, 65534, 65534));
                        note("setuid", setresuid(65534, 65534, 65534));
                        note("uid", static_cast<long>(getuid()));
                        echo(listener);
                      },
                      ask};

Scenario user_midway{"surroundings/setuid-on-a-connection", echo, [](std::uint16_t port) {
                       int fd = dial(port);
                       note("sent", send_all(fd, "ques"));
                       note("setuid", setresuid(65534, 65534, 65534));
                       note("sent", send_all(fd, "tion"));
                       note_data("answer", receive_exactly(fd, 15));
                       note("close", close(fd));
                     }};

// Numbers 0 to 2 are free: sockets get them.
Scenario no_standard_streams{"surroundings/sockets-as-standard-streams",
                             [](int listener) {
                               for (int fd = 0; fd <= 2; ++fd) close(fd);
                               int fd = accept(listener, nullptr, nullptr);
                               note("number", fd);
                               note_data("heard", receive_exactly(fd, 8));
                               note("puts", std::fputs("answer ", stdin) != EOF);
                               send_all(fd, "answer question");
                               note_rest(fd);
                             },
                             [](std::uint16_t port) {
                               for (int fd = 0; fd <= 2; ++fd) close(fd);
                               int fd = dial(port);
                               note("number", fd);
                               send_all(fd, "question");
                               note_data("answer", receive_exactly(fd, 15));
                               note("close", close(fd));
                             }};

// No process or thread may be made any more.
Scenario no_processes{"surroundings/no-more-processes", echo, [](std::uint16_t port) {
                        int fd = dial(port);
                        send_all(fd, "q");
                        rlimit none{0, 0};
                        note("limit", setrlimit(RLIMIT_NPROC, &none));
                        note("sent", send_all(fd, "uestion"));
                        note_data("answer", receive_exactly(fd, 15));
                        note("close", close(fd));
                      }};

// The half of a server that talks to the network, which may open nothing and start nobody: before
// the first byte, when the handshake is still to come.
void limit(__rlimit_resource resource, rlim_t most) {
  rlimit limits{most, most};
  note("setrlimit", setrlimit(resource, &limits));
}
void serve_within(int listener, void (*limit_oneself)()) {
  int fd = take(listener);
  limit_oneself();
  note_data("heard", receive_exactly(fd, 8));
  send_all(fd, "answer question");
  note_rest(fd);
}
void nothing_left() {
  limit(RLIMIT_NOFILE, 0);
  note("setgid", setresgid(65534, 65534, 65534));
  note("setuid", setresuid(65534, 65534, 65534));
  limit(RLIMIT_NPROC, 0);
}
Scenario nothing{"surroundings/no-descriptors-and-processes-before-the-first-byte",
                 [](int listener) { serve_within(listener, nothing_left); }, ask};
Scenario nothing_in_a_child{"surroundings/a-child-without-descriptors-and-processes",
                            [](int listener) {
                              int fd = take(listener);
                              pid_t child = fork();
                              if (child == 0) {
                                call_myself("child");
                                nothing_left();
                                note_data("heard", receive_exactly(fd, 8));
                                send_all(fd, "answer question");
                                note_rest(fd);
                                _exit(0);
                              }
                              close(fd);
                              int status = -1;
                              waitpid(child, &status, 0);
                              note("status", status);
                            },
                            ask};

// The program has what it asked for to itself, and sees no other limit.
void little_memory() {
  constexpr rlim_t kSpace = 200 << 20;
  limit(RLIMIT_AS, kSpace);
  rlimit now{};
  note("getrlimit", getrlimit(RLIMIT_AS, &now));
  note("limit", now.rlim_cur == kSpace && now.rlim_max == kSpace);
  note("prlimit", prlimit(0, RLIMIT_AS, nullptr, &now));
  note("limit", now.rlim_cur == kSpace && now.rlim_max == kSpace);
  void *memory = mmap(nullptr, 100 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  note("memory", memory != MAP_FAILED);
  munmap(memory, 100 << 20);
}
Scenario little_space{"surroundings/little-address-space",
                      [](int listener) {
                        serve_within(listener, little_memory);
                        echo(listener);
                      },
                      [](std::uint16_t port) {
                        ask(port);
                        ask(port);
                      }};

Scenario all_locked{"surroundings/memory-locked", echo, [](std::uint16_t port) {
                      note("mlockall", mlockall(MCL_CURRENT | MCL_FUTURE));
                      ask(port);
                    }};

Scenario no_dumps{"surroundings/not-dumpable", echo, [](std::uint16_t port) {
                    note("dumpable", prctl(PR_SET_DUMPABLE, 0));
                    ask(port);
                  }};

Scenario daemon_twice{"surroundings/daemon",
                      [](int listener) {
                        pid_t first = fork();
                        if (first == 0) {
                          setsid();
                          if (fork() != 0) _exit(0);
                          call_myself("daemon");
                          int null = open("/dev/null", O_RDWR);
                          for (int fd = 0; fd <= 2; ++fd) dup2(null, fd);
                          echo(listener);
                          tell(0);
                          _exit(0);
                        }
                        int status = -1;
                        note("first child", waitpid(first, &status, 0) == first);
                        note("status", status);
                      },
                      [](std::uint16_t port) {
                        ask(port);
                        told();
                      }};

// Many children, each with a word on one connection, one after another.
Scenario fork_storm{"surroundings/fork-storm",
                    [](int listener) {
                      int fd = take(listener);
                      note_rest(fd);
                    },
                    [](std::uint16_t port) {
                      int fd = dial(port);
                      send_all(fd, "begin ");
                      long failed = 0;
                      for (unsigned i = 0; i < 200; ++i) {
                        pid_t child = fork();
                        if (child == 0) _exit(send_all(fd, pattern(37, i)) ? 0 : 1);
                        int status = -1;
                        waitpid(child, &status, 0);
                        failed += status != 0;
                      }
                      note("failed", failed);
                      note("close", close(fd));
                    }};

// All at once: each message whole, in whatever order.
Scenario forks_at_once{"surroundings/forks-at-once",
                       [](int listener) {
                         int fd = take(listener);
                         std::string all = receive_exactly(fd, 64 * 100);
                         long counts[64] = {};
                         long broken = 0;
                         for (std::size_t at = 0; at + 100 <= all.size(); at += 100) {
                           auto kind = static_cast<unsigned char>(all[at]);
                           for (std::size_t i = 0; i < 100; ++i) {
                             broken += static_cast<unsigned char>(all[at + i]) != kind;
                           }
                           if (kind < 64) ++counts[kind];
                         }
                         note("broken", broken);
                         long once = 0;
                         for (long count : counts) once += count == 1;
                         note("each once", once);
                         note_rest(fd);
                       },
                       [](std::uint16_t port) {
                         int fd = dial(port);
                         pid_t children[64];
                         for (unsigned i = 0; i < 64; ++i) {
                           children[i] = fork();
                           if (children[i] == 0) {
                             std::string message(100, static_cast<char>(i));
                             _exit(send(fd, message.data(), 100, 0) == 100 ? 0 : 1);
                           }
                         }
                         long failed = 0;
                         for (pid_t child : children) {
                           int status = -1;
                           waitpid(child, &status, 0);
                           failed += status != 0;
                         }
                         note("failed", failed);
                         note("close", close(fd));
                       }};

Scenario popened{"surroundings/popen-beside-a-connection", echo, [](std::uint16_t port) {
                   int fd = dial(port);
                   send_all(fd, "ques");
                   FILE *words = popen("echo from a child", "r");
                   char line[64] = {};
                   note("line", std::fgets(line, sizeof line, words) != nullptr);
                   say("said", line);
                   note("pclose", pclose(words));
                   note("system", system("exit 3"));
                   send_all(fd, "tion");
                   note_data("answer", receive_exactly(fd, 15));
                   note("close", close(fd));
                 }};

}  // namespace
