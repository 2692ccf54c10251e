// Copies of descriptors, streams over them, unusual numbers.
#include <sys/resource.h>

#include <algorithm>

#include "behaviour.h"

using namespace behaviour;

namespace {

void hear_all(int listener) {
  int fd = take(listener);
  note_rest(fd);
}

// Once the connection is up: what inlay opens then has had its numbers.
Scenario copies{"descriptors/copies",
                [](int listener) {
                  int fd = take(listener);
                  note_data("heard", receive_exactly(fd, 8));
                  meet();
                  meet();
                  note_rest(fd);
                },
                [](std::uint16_t port) {
                  int fd = dial(port);
                  int second = dup(fd);
                  int third = fcntl(fd, F_DUPFD_CLOEXEC, 50);
                  int fourth = dup3(fd, 60, O_CLOEXEC);
                  note("dup", second);
                  note("F_DUPFD_CLOEXEC", third);
                  note("dup3", fourth);
                  note("flags", fcntl(third, F_GETFD));
                  note("dup2 to itself", dup2(fd, fd));
                  note("dup3 to itself", dup3(fd, fd, 0));
                  note("dup2 of nothing", dup2(99, fd));
                  note("send", send(fd, "one ", 4, 0));
                  note("send", send(second, "two ", 4, 0));
                  meet();
                  note("close", close(fd));
                  note("closed", send(fd, "x", 1, 0));
                  note("send", send(third, "three ", 6, 0));
                  note("close", close(second));
                  note("send", send(fourth, "four", 4, 0));
                  note("close", close(third));
                  meet();
                  note("close the last", close(fourth));
                }};

Scenario last_copy{"descriptors/last-copy-ends-it",
                   [](int listener) {
                     int fd = take(listener);
                     note_data("heard", receive_exactly(fd, 3));
                     meet();  // one of two is closed
                     char c;
                     note("not the end", recv(fd, &c, 1, MSG_DONTWAIT));
                     meet();
                     note_rest(fd);
                   },
                   [](std::uint16_t port) {
                     int fd = dial(port);
                     int second = dup(fd);
                     send_all(fd, "abc");
                     close(fd);
                     meet();
                     meet();
                     close(second);
                   }};

Scenario replaced{"descriptors/dup2-over-another",
                  [](int listener) {
                    int first = take(listener);
                    int second = take(listener);
                    note_data("first", receive_exactly(first, 1));
                    note_data("second", receive_exactly(second, 1));
                    note_rest(second);  // replaced: closed
                    note_rest(first);
                  },
                  [](std::uint16_t port) {
                    int first = dial(port);
                    int second = dial(port);
                    send_all(first, "1");
                    send_all(second, "2");
                    note("dup2", dup2(first, second));
                    note("send", send(second, "over the copy", 13, 0));
                    close(first);
                    note("send", send(second, ", still", 7, 0));
                  }};

Scenario replaced_by_file{"descriptors/dup2-of-a-file-over-it", hear_all, [](std::uint16_t port) {
                            int fd = dial(port);
                            send_all(fd, "for the peer");
                            int null = open("/dev/null", O_RDWR);
                            note("dup2", dup2(null, fd));
                            note("write", write(fd, "for nobody", 10));
                            char c;
                            note("read", read(fd, &c, 1));
                            note("recv", recv(fd, &c, 1, 0));
                          }};

Scenario streams{"descriptors/streams",
                 [](int listener) {
                   int fd = take(listener);
                   FILE *in = fdopen(fd, "r");
                   FILE *out = fdopen(dup(fd), "w");
                   char line[100];
                   while (fgets(line, sizeof(line), in) != nullptr) {
                     note_data("line", line);
                     std::fprintf(out, "%zu\n", strlen(line));
                     std::fflush(out);
                   }
                   note("at the end", feof(in));
                   note("fileno", fileno(in) == fd);
                   std::fprintf(out, "bye");
                   note("fclose", fclose(out));
                   note("fclose", fclose(in));
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   FILE *both = fdopen(fd, "r+");
                   char line[100];
                   for (const char *text : {"first\n", "second line\n"}) {
                     std::fputs(text, both);
                     std::fflush(both);
                     if (fgets(line, sizeof(line), both) != nullptr) note_data("answer", line);
                   }
                   note("dprintf", dprintf(fd, "%s\n", "by dprintf"));
                   if (fgets(line, sizeof(line), both) != nullptr) note_data("answer", line);
                   shutdown(fd, SHUT_WR);
                   if (fgets(line, sizeof(line), both) != nullptr) note_data("answer", line);
                   note("fclose", fclose(both));
                 }};

Scenario standard{"descriptors/standard-streams",
                  [](int listener) {
                    int fd = take(listener);
                    dup2(fd, 0);
                    dup2(fd, 1);
                    close(fd);
                    char line[100];
                    if (fgets(line, sizeof(line), stdin) != nullptr) note_data("line", line);
                    std::printf("you said %s", line);
                    std::puts("bye");
                    // Flushed by exit().
                  },
                  [](std::uint16_t port) {
                    int fd = dial(port);
                    send_all(fd, "hello\n");
                    note_rest(fd);
                  }};

Scenario high{"descriptors/above-1024",
              [](int listener) {
                rlimit limit{5000, 5000};
                if (setrlimit(RLIMIT_NOFILE, &limit) != 0) note("setrlimit", -1);
                int fd = take(listener);
                int big = fcntl(fd, F_DUPFD, 3000);
                note("number", big);
                close(fd);
                note_data("heard", receive_exactly(big, 5));
                note("answer", send(big, "answer", 6, 0));
                note_rest(big);
                close(big);
              },
              [](std::uint16_t port) {
                rlimit limit{5000, 5000};
                if (setrlimit(RLIMIT_NOFILE, &limit) != 0) note("setrlimit", -1);
                int low = socket(AF_INET, SOCK_STREAM, 0);
                int fd = fcntl(low, F_DUPFD, 2500);
                close(low);
                sockaddr_in address = address_of(port);
                note("connect",
                     connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)));
                send_all(fd, "hello");
                note_data("answer", receive_exactly(fd, 6));
              }};

Scenario few{"descriptors/low-limit", hear_all, [](std::uint16_t port) {
               // 0, 1, 2 and 200, 201 are open: room for a few.
               rlimit limit{12, 5000};
               if (setrlimit(RLIMIT_NOFILE, &limit) != 0) note("setrlimit", -1);
               int fd = dial(port);
               note("send", send(fd, "hello", 5, 0));
             }};

Scenario ranges{"descriptors/close-range", hear_all, [](std::uint16_t port) {
                  int fd = dial(port);
                  send_all(fd, "before");
                  note("close_range", close_range(3, 150, 0));
                  note("closed", send(fd, "x", 1, 0));
                  note("open", open("/dev/null", O_RDONLY));
                }};

Scenario passed{"descriptors/passed-to-itself", hear_all, [](std::uint16_t port) {
                  int fd = dial(port);
                  send_all(fd, "before ");
                  int pair[2];
                  socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
                  char data = 'x';
                  iovec part{&data, 1};
                  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
                  msghdr message{nullptr, 0, &part, 1, control, sizeof(control), 0};
                  cmsghdr *rights = CMSG_FIRSTHDR(&message);
                  rights->cmsg_level = SOL_SOCKET;
                  rights->cmsg_type = SCM_RIGHTS;
                  rights->cmsg_len = CMSG_LEN(sizeof(int));
                  std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
                  note("sendmsg", sendmsg(pair[0], &message, 0));
                  note("close", close(fd));
                  message.msg_controllen = sizeof(control);
                  note("recvmsg", recvmsg(pair[1], &message, 0));
                  int back;
                  std::memcpy(&back, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(back));
                  note("number", back);
                  note("send", send(back, "after", 5, MSG_NOSIGNAL));
                }};

// As high as the kernel's default fs.nr_open lets them be, or as this process may raise its limit.
int highest_number() {
  constexpr rlim_t kDefaultMost = 1 << 20;
  rlimit limit{kDefaultMost, kDefaultMost};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max = std::min(limit.rlim_max, kDefaultMost);
    limit.rlim_cur = limit.rlim_max;
    note("setrlimit", setrlimit(RLIMIT_NOFILE, &limit));
  }
  return static_cast<int>(limit.rlim_cur) - 1;
}

Scenario high_numbers{"descriptors/above-65536",
                      [](int listener) {
                        int fd = take(listener);
                        for (unsigned i = 0; i < 4; ++i) {
                          note("intact", receive_exactly(fd, 20000) == pattern(20000, i));
                          send_all(fd, pattern(20000, i + 10));
                        }
                        note_rest(fd);
                      },
                      [](std::uint16_t port) {
                        const int highest = highest_number();
                        int fd = dial(port);
                        unsigned i = 0;
                        for (int number : {highest / 16, highest / 5, highest}) {
                          note("dup2", dup2(fd, number));
                          note("close", close(fd));
                          fd = number;
                          note("sent", send_all(fd, pattern(20000, i)));
                          note("good", receive_exactly(fd, 20000) == pattern(20000, i + 10));
                          ++i;
                        }
                        pid_t child = fork();
                        if (child == 0) {
                          call_myself("child");
                          note("sent", send_all(fd, pattern(20000, i)));
                          note("good", receive_exactly(fd, 20000) == pattern(20000, i + 10));
                          _exit(0);
                        }
                        note("waitpid", waitpid(child, nullptr, 0) == child);
                        note("no higher", dup(fd) < highest);
                        note("F_DUPFD", fcntl(fd, F_DUPFD, highest));
                        note("F_DUPFD beyond", fcntl(fd, F_DUPFD, highest + 1));
                        note("dup2 beyond", dup2(fd, highest + 1));
                        note("close", close(fd));
                      }};

}  // namespace
