// Processes that change under a connection: servers that execute themselves again, programs started
// without standard streams, everything closed, a seccomp filter, both sides of a fork at once.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

bool ask(int fd, std::string_view question) {
  return send_all(fd, question) && receive_exactly(fd, question.size()) == question;
}
void answer_once(int fd, std::size_t length) { send_all(fd, receive_exactly(fd, length)); }

// --- a server that is replaced by itself
// -------------------------------------------------------------

constexpr int kListener = 30;

Continuation next_server{"next-server", [](int fd) {
                           answer_once(fd, 6);
                           int second = take(kListener);
                           answer_once(second, 6);
                           note_rest(second);
                           note_rest(fd);
                         }};
Scenario replaced_server{"changing/server-executes-itself",
                         [](int listener) {
                           dup2(listener, kListener);
                           int fd = take(listener);
                           answer_once(fd, 6);
                           meet();  // the second connection waits in the backlog
                           Then then("next-server", fd);
                           execv(then.path(), then.arguments());
                         },
                         [](std::uint16_t port) {
                           int first = dial(port);
                           note("asked", ask(first, "before"));
                           int second = dial(port);
                           send_all(second, "second");
                           meet();
                           note("asked", ask(first, "after."));
                           note_data("second", receive_exactly(second, 6));
                           note("close", close(second));
                           note("close", close(first));
                         }};

// sshd's way: a child for each connection, which executes the program again.
Continuation serve_one{"serve-one", [](int fd) {
                         call_myself("child");
                         answer_once(fd, 6);
                         note_rest(fd);
                       }};
Scenario child_server{"changing/child-executes-itself-for-each",
                      [](int listener) {
                        for (int i = 0; i < 3; ++i) {
                          int fd = take(listener);
                          pid_t child = fork();
                          if (child == 0) {
                            close(listener);
                            Then then("serve-one", fd);
                            execv(then.path(), then.arguments());
                            _exit(1);
                          }
                          note("close", close(fd));
                          int status = -1;
                          note("waitpid", waitpid(child, &status, 0) == child);
                          note("status", status);
                        }
                      },
                      [](std::uint16_t port) {
                        for (int i = 0; i < 3; ++i) {
                          int fd = dial(port);
                          note("asked", ask(fd, "a word"));
                          note("close", close(fd));
                        }
                      }};

// --- without standard streams
// ------------------------------------------------------------------------

Continuation bare{"bare", [](int listener) {
                    int fd = take(listener);
                    note("number", fd);
                    int second = take(listener);
                    note("number", second);
                    answer_once(fd, 6);
                    answer_once(second, 6);
                    note_rest(fd);
                    note_rest(second);
                  }};
Scenario started_bare{"changing/started-without-standard-streams",
                      [](int listener) {
                        dup2(listener, kListener);
                        Then then("bare", kListener);
                        close_range(0, 29, 0);
                        execv(then.path(), then.arguments());
                      },
                      [](std::uint16_t port) {
                        int fd = dial(port);
                        int second = dial(port);
                        note("asked", ask(fd, "a word"));
                        note("asked", ask(second, "second"));
                      }};

// --- everything closed
// -------------------------------------------------------------------------------

// In a child, whose record would be closed as well: its status tells.
void close_everything(std::uint16_t port, void (*close_all)()) {
  int fd = dial(port);
  note("asked", ask(fd, "before"));
  pid_t child = fork();
  if (child == 0) {
    close_all();
    bool closed = send(fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EBADF;
    int next = open("/dev/null", O_RDWR);
    _exit(closed && next == 0 ? 0 : 1);
  }
  int status = -1;
  note("waitpid", waitpid(child, &status, 0) == child);
  note("status", status);
  note("asked", ask(fd, "after."));
  note("close", close(fd));
}
void echo(int listener) {
  int fd = take(listener);
  char buffer[4096];
  for (ssize_t got; (got = recv(fd, buffer, sizeof buffer, 0)) > 0;) {
    send_all(fd, {buffer, static_cast<std::size_t>(got)});
  }
}
Scenario closefrom_all{"changing/closefrom-0", echo,
                       [](std::uint16_t port) { close_everything(port, [] { closefrom(0); }); }};
Scenario close_range_all{"changing/close-range-over-everything", echo, [](std::uint16_t port) {
                           close_everything(port, [] { close_range(0, ~0u, 0); });
                         }};
Scenario unshared_range{
    "changing/close-range-unshare", echo, [](std::uint16_t port) {
      close_everything(port, [] { close_range(0, ~0u, static_cast<int>(CLOSE_RANGE_UNSHARE)); });
    }};
Scenario one_by_one{"changing/each-number-closed", echo, [](std::uint16_t port) {
                      close_everything(port, [] {
                        for (int fd = 0; fd < 1024; ++fd) close(fd);
                      });
                    }};

// --- a filter
// ----------------------------------------------------------------------------------------

// Reads, writes, ends: whatever else it tries is refused.
void enter_sandbox() {
  constexpr unsigned kAllowed[] = {SYS_read, SYS_write, SYS_close, SYS_exit, SYS_exit_group};
  sock_filter filter[std::size(kAllowed) + 3];
  std::size_t count = 0;
  filter[count++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
  for (unsigned i = 0; i < std::size(kAllowed); ++i) {
    filter[count++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kAllowed[i],
                               static_cast<std::uint8_t>(std::size(kAllowed) - i), 0);
  }
  filter[count++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
  filter[count++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  sock_fprog program{static_cast<unsigned short>(count), filter};
  note("no new privileges", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  note("filter", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}
Scenario sandboxed{"changing/into-a-seccomp-filter", echo, [](std::uint16_t port) {
                     int fd = dial(port);
                     note("asked", ask(fd, "before"));
                     enter_sandbox();
                     note("write", write(fd, "after.", 6));
                     char buffer[10] = {};
                     note("read", read(fd, buffer, 6));
                     note_data("answer", {buffer, 6});
                     note("open", open("/dev/null", O_RDONLY));
                     note("write", write(fd, "more", 4));
                     note("read", read(fd, buffer, 4));
                     note("close", close(fd));
                   }};

// --- both sides of a fork
// ----------------------------------------------------------------------------

constexpr std::size_t kMuch = 2'000'000;

// One writes while the other reads.
Scenario one_each_way{"changing/parent-reads-while-child-writes", echo, [](std::uint16_t port) {
                        int fd = dial(port);
                        note("asked", ask(fd, "before"));
                        pid_t child = fork();
                        if (child == 0) {
                          call_myself("child");
                          note("sent", send_all(fd, pattern(kMuch)));
                          _exit(0);
                        }
                        note("intact", receive_exactly(fd, kMuch) == pattern(kMuch));
                        note("waitpid", waitpid(child, nullptr, 0) == child);
                        note("asked", ask(fd, "after."));
                      }};

// Both read at once: every piece is one's or the other's.
Scenario both_read{"changing/parent-and-child-read-at-once",
                   [](int listener) {
                     int fd = take(listener);
                     answer_once(fd, 6);
                     for (unsigned i = 0; i < 200; ++i)
                       send_all(fd, std::string(100, static_cast<char>(i)));
                     note("shutdown", shutdown(fd, SHUT_WR));
                     note_rest(fd);
                   },
                   [](std::uint16_t port) {
                     int fd = dial(port);
                     note("asked", ask(fd, "before"));
                     auto *counts = static_cast<std::atomic<int> *>(mmap(
                         nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
                     pid_t child = fork();
                     char piece[100];
                     while (recv(fd, piece, sizeof piece, MSG_WAITALL) == 100) {
                       bool whole = std::string_view(piece, 100) == std::string(100, piece[0]);
                       if (whole) ++counts[static_cast<unsigned char>(piece[0])];
                     }
                     if (child == 0) _exit(0);
                     int status = -1;
                     note("waitpid", waitpid(child, &status, 0) == child);
                     note("status", status);
                     int once = 0;
                     for (int i = 0; i < 200; ++i) once += counts[i] == 1;
                     note("each once", once);
                   }};

// The child of popen() writes on the connection when its parent has long closed it.
Scenario popened{"changing/popen-outlives-the-parents-descriptor",
                 [](int listener) {
                   int fd = take(listener);
                   answer_once(fd, 6);
                   meet();
                   note_rest(fd);
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   note("asked", ask(fd, "before"));
                   dup2(fd, 9);
                   close(fd);
                   FILE *stream = popen("read go; echo from the child >&9", "w");
                   note("close", close(9));
                   meet();
                   std::fputs("go\n", stream);
                   note("pclose", pclose(stream));
                 }};

}  // namespace
