// Descriptors closed and replaced while another thread is in a call on them: the call has the
// connection until it returns, and what is left of it ends then.
#include <csetjmp>

#include "behaviour.h"

using namespace behaviour;

namespace {

void greet(int fd) {
  note_data("hello", receive_exactly(fd, 5));
  send_all(fd, "!");
}
int dial_and_greet(std::uint16_t port) {
  int fd = dial(port);
  send_all(fd, "hello");
  receive_exactly(fd, 1);
  return fd;
}

// Sends one byte when the other end has let go, and then hears the end of it.
void one_byte_later(int listener) {
  int fd = take(listener);
  greet(fd);
  meet();
  send_all(fd, "x");
  note_rest(fd);
  meet();
}

void receive_one(int fd) {
  char c = 0;
  note("recv", recv(fd, &c, 1, 0));
  note("got", c);
  note("again", recv(fd, &c, 1, 0));
}

// What execve() takes for a program, until it looks.
void execute_in_vain() {
  const char *folder = getenv("TMPDIR");
  std::string path = std::string(folder != nullptr ? folder : "/tmp") + "/no-program";
  int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
  note("written", write(file, "\1\2\3", 3));
  close(file);
  char *const arguments[] = {path.data(), nullptr};
  note("execv", execv(path.c_str(), arguments));
  unlink(path.c_str());
}

Scenario after_exec{"threads/closed-while-receiving-after-a-failed-exec", one_byte_later,
                    [](std::uint16_t port) {
                      int fd = dial_and_greet(port);
                      execute_in_vain();
                      Worker reader("reader", [fd] { receive_one(fd); });
                      reader.await_blocked();
                      note("close", close(fd));
                      meet();
                      reader.join();
                      meet();
                    }};

Scenario received{"threads/closed-while-receiving", one_byte_later, [](std::uint16_t port) {
                    int fd = dial_and_greet(port);
                    Worker reader("reader", [fd] { receive_one(fd); });
                    reader.await_blocked();
                    note("close", close(fd));
                    note("close again", close(fd));
                    meet();
                    reader.join();
                    meet();
                  }};

Scenario replaced{"threads/replaced-while-receiving", one_byte_later, [](std::uint16_t port) {
                    int fd = dial_and_greet(port);
                    int other[2];
                    note("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, other));
                    note("write", write(other[0], "ab", 2));
                    Worker reader("reader", [fd] { receive_one(fd); });
                    reader.await_blocked();
                    note("dup2", dup2(other[1], fd));
                    meet();
                    reader.join();
                    meet();
                  }};

// The number is another connection's when the call wakes.
Scenario reused{"threads/number-reused-while-receiving",
                [](int listener) {
                  int fd = take(listener);
                  greet(fd);
                  int second = take(listener);
                  send_all(second, "second");
                  meet();
                  send_all(fd, "x");
                  note_rest(fd);
                  note_rest(second);
                },
                [](std::uint16_t port) {
                  int fd = dial_and_greet(port);
                  Worker reader("reader", [fd] {
                    char c = 0;
                    note("recv", recv(fd, &c, 1, 0));
                    note("got", c);
                  });
                  reader.await_blocked();
                  note("close", close(fd));
                  int second = dial(port);
                  note("the same number", second == fd);
                  meet();
                  reader.join();
                  note_data("second", receive_exactly(second, 6));
                  note("close", close(second));
                }};

Scenario one_of_two{"threads/one-of-two-closed-while-receiving", one_byte_later,
                    [](std::uint16_t port) {
                      int fd = dial_and_greet(port);
                      int copy = dup(fd);
                      Worker reader("reader", [fd] { receive_one(fd); });
                      reader.await_blocked();
                      note("close", close(fd));
                      meet();
                      reader.join();
                      note("close", close(copy));
                      meet();
                    }};

Scenario both_closed{"threads/both-copies-closed-while-receiving", one_byte_later,
                     [](std::uint16_t port) {
                       int fd = dial_and_greet(port);
                       int copy = dup(fd);
                       Worker reader("reader", [fd] { receive_one(fd); });
                       reader.await_blocked();
                       note("close", close(fd));
                       note("close", close(copy));
                       meet();
                       reader.join();
                       meet();
                     }};

// As many programs end a thread that reads.
Scenario shut_and_closed{"threads/shut-down-and-closed-while-receiving",
                         [](int listener) {
                           for (int i = 0; i < 30; ++i) {
                             int fd = take(listener);
                             greet(fd);
                             note_rest(fd);
                             close(fd);
                           }
                         },
                         [](std::uint16_t port) {
                           for (int i = 0; i < 30; ++i) {
                             int fd = dial_and_greet(port);
                             Worker reader("reader", [fd] {
                               char c;
                               note("recv", recv(fd, &c, 1, 0));
                             });
                             reader.await_blocked();
                             note("shutdown", shutdown(fd, SHUT_RDWR));
                             note("close", close(fd));
                             reader.join();
                           }
                         }};

Scenario before_accept{"threads/closed-before-the-handshake-is-over",
                       [](int listener) {
                         meet();
                         int fd = take(listener);
                         note_data("hello", receive_exactly(fd, 5));
                         send_all(fd, "x");
                         note_rest(fd);
                         meet();
                       },
                       [](std::uint16_t port) {
                         int fd = dial(port);
                         send_all(fd, "hello");
                         Worker reader("reader", [fd] { receive_one(fd); });
                         reader.await_blocked();
                         note("close", close(fd));
                         meet();
                         reader.join();
                         meet();
                       }};

// All of a long message leaves, whatever became of the number.
constexpr std::size_t kLong = 8 << 20;
void hear_long(int listener) {
  int fd = take(listener);
  greet(fd);
  meet();
  note_rest(fd);
}
Scenario sending{"threads/closed-while-sending", hear_long, [](std::uint16_t port) {
                   int fd = dial_and_greet(port);
                   Worker writer("writer", [fd] {
                     std::string bytes = pattern(kLong);
                     note("send", send(fd, bytes.data(), bytes.size(), 0));
                     note("again", send(fd, "x", 1, MSG_NOSIGNAL));
                   });
                   writer.await_blocked();
                   note("close", close(fd));
                   meet();
                   writer.join();
                 }};
Scenario replaced_sending{"threads/replaced-while-sending", hear_long, [](std::uint16_t port) {
                            int fd = dial_and_greet(port);
                            Worker writer("writer", [fd] {
                              std::string bytes = pattern(kLong);
                              note("send", send(fd, bytes.data(), bytes.size(), 0));
                            });
                            writer.await_blocked();
                            int null = open("/dev/null", O_RDWR);
                            note("dup2", dup2(null, fd));
                            meet();
                            writer.join();
                            note("write", write(fd, "for nobody", 10));
                          }};

Scenario waiting_for_all{"threads/closed-while-waiting-for-all",
                         [](int listener) {
                           int fd = take(listener);
                           greet(fd);
                           send_all(fd, "part");
                           meet();
                           send_all(fd, "of it all");
                           note_rest(fd);
                         },
                         [](std::uint16_t port) {
                           int fd = dial_and_greet(port);
                           Worker reader("reader", [fd] {
                             char all[13];
                             note("recv", recv(fd, all, sizeof all, MSG_WAITALL));
                             note_data("got", {all, sizeof all});
                           });
                           reader.await_blocked();
                           note("close", close(fd));
                           meet();
                           reader.join();
                         }};

// SO_LINGER 0: the reset, when the call has returned.
Scenario reset{"threads/reset-while-receiving", one_byte_later, [](std::uint16_t port) {
                 int fd = dial_and_greet(port);
                 linger now{1, 0};
                 note("linger", setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
                 Worker reader("reader", [fd] { receive_one(fd); });
                 reader.await_blocked();
                 note("close", close(fd));
                 meet();
                 reader.join();
                 meet();
               }};

// --- calls that were left ------------------------------------------------------------------------

// The end comes with close(), not with the end of the process.
void hear_the_end(int listener) {
  int fd = take(listener);
  greet(fd);
  note_rest(fd);
  meet();
}

Scenario cancelled{"threads/closed-after-a-cancelled-recv", hear_the_end, [](std::uint16_t port) {
                     int fd = dial_and_greet(port);
                     Worker reader("reader", [fd] {
                       char c;
                       recv(fd, &c, 1, 0);
                       note("not reached", 1);
                     });
                     reader.await_blocked();
                     note("cancel", pthread_cancel(reader.handle()));
                     reader.join();
                     note("close", close(fd));
                     meet();
                   }};

Scenario cancelled_later{"threads/cancelled-after-it-was-closed", hear_the_end,
                         [](std::uint16_t port) {
                           int fd = dial_and_greet(port);
                           Worker reader("reader", [fd] {
                             char c;
                             recv(fd, &c, 1, 0);
                             note("not reached", 1);
                           });
                           reader.await_blocked();
                           note("close", close(fd));
                           note("cancel", pthread_cancel(reader.handle()));
                           reader.join();
                           meet();
                         }};

sigjmp_buf g_out;
Scenario jumped{"threads/closed-after-a-jump-out-of-recv", hear_the_end, [](std::uint16_t port) {
                  int fd = dial_and_greet(port);
                  signal(SIGALRM, [](int) { siglongjmp(g_out, 1); });
                  Bell bell;
                  if (sigsetjmp(g_out, 1) == 0) {
                    char c;
                    note("recv", recv(fd, &c, 1, 0));
                  }
                  note("close", close(fd));
                  meet();
                }};

// The process ends while a call is under way.
Scenario exits{"threads/exit-while-receiving-on-a-closed-number",
               [](int listener) {
                 int fd = take(listener);
                 greet(fd);
                 note_rest(fd);
               },
               [](std::uint16_t port) {
                 int fd = dial_and_greet(port);
                 static Worker reader("reader", [fd] {
                   char c;
                   recv(fd, &c, 1, 0);
                 });
                 reader.await_blocked();
                 note("close", close(fd));
                 _exit(3);
               }};

// A thread that goes on sleeping on another connection has nothing to do with the end of this one.
Scenario beside_another{"threads/closed-after-a-cancelled-recv-beside-another",
                        [](int listener) {
                          int first = take(listener);
                          int second = take(listener);
                          send_all(first, "1");
                          send_all(second, "2");
                          meet();
                          note_rest(second);
                          send_all(first, "and this");
                          note_rest(first);
                        },
                        [](std::uint16_t port) {
                          int first = dial(port);
                          int second = dial(port);
                          note_data("first", receive_exactly(first, 1));
                          note_data("second", receive_exactly(second, 1));
                          char data[8];
                          Worker other("other", [&] { note("recv", recv(first, data, 8, MSG_WAITALL)); });
                          other.await_blocked();
                          char more[4];
                          Worker worker("worker", [&] { note("recv", recv(second, more, 4, 0)); });
                          worker.await_blocked();
                          note("cancel", pthread_cancel(worker.handle()));
                          worker.join();
                          note("close", close(second));
                          meet();
                          other.join();
                          note("close", close(first));
                        }};

}  // namespace
