// Blocking calls and their flags.
#include <sys/sendfile.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

Scenario client_first{"blocking/client-first",
                      [](int listener) {
                        int fd = take(listener);
                        note_data("request", receive_exactly(fd, 5));
                        note("answer", send(fd, "world!", 6, 0));
                        note_rest(fd);
                        note("close", close(fd));
                      },
                      [](std::uint16_t port) {
                        int fd = dial(port);
                        note("descriptor", fd);
                        errno = 77;
                        note("request", send(fd, "hello", 5, 0));
                        note("errno kept", errno);
                        note_data("answer", receive_exactly(fd, 6));
                        note("close", close(fd));
                        note("close again", close(fd));
                        char c;
                        note("recv after close", recv(fd, &c, 1, 0));
                      }};

Scenario server_first{"blocking/server-first",
                      [](int listener) {
                        int fd = take(listener);
                        note("greeting", send(fd, "220 ready\r\n", 11, 0));
                        note_data("answer", receive_exactly(fd, 4));
                        note_rest(fd);
                      },
                      [](std::uint16_t port) {
                        int fd = dial(port);
                        note_data("greeting", receive_exactly(fd, 11));
                        note("answer", send(fd, "QUIT", 4, 0));
                      }};

// One thread, both ends, no accept before connect has returned.
Scenario own_listener{"blocking/own-listener",
                      [](int listener) {
                        sockaddr_in address{};
                        socklen_t length = sizeof(address);
                        getsockname(listener, reinterpret_cast<sockaddr *>(&address), &length);
                        int near = dial(ntohs(address.sin_port));
                        note("early", send(near, "early bytes", 11, 0));
                        int far = take(listener);
                        note_data("heard", receive_exactly(far, 11));
                        note("answer", send(far, "late", 4, 0));
                        note_data("heard back", receive_exactly(near, 4));
                        close(near);
                        note_rest(far);
                      },
                      nullptr};

Scenario own_listener_server_first{"blocking/own-listener-server-first",
                                   [](int listener) {
                                     sockaddr_in address{};
                                     socklen_t length = sizeof(address);
                                     getsockname(listener, reinterpret_cast<sockaddr *>(&address),
                                                 &length);
                                     int near = dial(ntohs(address.sin_port));
                                     int far = take(listener);
                                     note("first", send(far, "first", 5, 0));
                                     note("shutdown", shutdown(far, SHUT_WR));
                                     note_rest(near);
                                     note("reply", send(near, "reply", 5, 0));
                                     close(near);
                                     note_rest(far);
                                   },
                                   nullptr};

Scenario one_byte{"blocking/one-byte-reads",
                  [](int listener) {
                    int fd = take(listener);
                    note_rest(fd, 1);
                  },
                  [](std::uint16_t port) {
                    int fd = dial(port);
                    note("sent", send_all(fd, pattern(40000)));
                  }};

Scenario odd_sizes{"blocking/odd-sizes",
                   [](int listener) {
                     int fd = take(listener);
                     std::string all;
                     char buffer[40000];
                     unsigned state = 7;
                     for (;;) {
                       state = state * 1103515245u + 12345u;
                       ssize_t got = recv(fd, buffer, 1 + state % sizeof(buffer), 0);
                       if (got <= 0) break;
                       all.append(buffer, static_cast<std::size_t>(got));
                     }
                     note_data("all", all);
                   },
                   [](std::uint16_t port) {
                     int fd = dial(port);
                     std::string bytes = pattern(3'000'000);
                     unsigned state = 3;
                     for (std::size_t at = 0; at < bytes.size();) {
                       state = state * 1103515245u + 12345u;
                       std::size_t length =
                           std::min<std::size_t>(1 + state % 50000, bytes.size() - at);
                       if (!send_all(fd, std::string_view(bytes).substr(at, length))) break;
                       at += length;
                     }
                   }};

Scenario vectors{"blocking/vectors",
                 [](int listener) {
                   int fd = take(listener);
                   char a[3], b[1], c[20000];
                   meet();
                   volatile int too_many = 5000;  // not for the compiler's eyes
                   volatile int negative = -1;
                   iovec parts[4] = {{a, 3}, {nullptr, 0}, {b, 1}, {c, sizeof(c)}};
                   ssize_t got = readv(fd, parts, 4);
                   note("readv", got);
                   note_data("a", {a, 3});
                   note_data("c", {c, 16});
                   meet();
                   note("readv, no parts", readv(fd, parts, 0));
                   note("readv, too many", readv(fd, parts, too_many));
                   note("writev, negative", writev(fd, parts, negative));
                   note_rest(fd);
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   std::string text = pattern(20);
                   iovec parts[5] = {{nullptr, 0},
                                     {text.data(), 1},
                                     {text.data() + 1, 9},
                                     {nullptr, 0},
                                     {text.data() + 10, 10}};
                   note("writev", writev(fd, parts, 5));
                   meet();
                   meet();
                   std::string big = pattern(200000);
                   iovec halves[2] = {{big.data(), 100000}, {big.data() + 100000, 100000}};
                   note("writev big", writev(fd, halves, 2));
                 }};

Scenario peek{"blocking/peek",
              [](int listener) {
                int fd = take(listener);
                char buffer[64];
                note("peek 4", recv(fd, buffer, 4, MSG_PEEK));
                note_data("peeked", {buffer, 4});
                meet();  // both messages are there
                wait_for(fd, POLLIN);
                note("peek again", recv(fd, buffer, 4, MSG_PEEK));
                note("recv 2", recv(fd, buffer, 2, 0));
                note("peek the rest of it", recv(fd, buffer, 3, MSG_PEEK));
                note_data("peeked", {buffer, 3});
                note("peek without waiting", recv(fd, buffer, 3, MSG_PEEK | MSG_DONTWAIT));
                note_data("all", receive_exactly(fd, 8));
                note("nothing left", recv(fd, buffer, 64, MSG_PEEK | MSG_DONTWAIT));
                meet();
                note("peek at the end", recv(fd, buffer, 64, MSG_PEEK));
                note("peek at the end again", recv(fd, buffer, 64, MSG_PEEK));
                note_rest(fd);
              },
              [](std::uint16_t port) {
                int fd = dial(port);
                note("first", send(fd, "abcdef", 6, 0));
                note("second", send(fd, "ghij", 4, 0));
                meet();
                meet();
              }};

Scenario wait_all{"blocking/wait-all",
                  [](int listener) {
                    int fd = take(listener);
                    std::string bytes(100000, '\0');
                    note("all of it", recv(fd, bytes.data(), bytes.size(), MSG_WAITALL));
                    note_data("it", bytes);
                    note("without waiting", recv(fd, bytes.data(), 10, MSG_WAITALL | MSG_DONTWAIT));
                    meet();
                    note("until the end", recv(fd, bytes.data(), bytes.size(), MSG_WAITALL));
                    note("after the end", recv(fd, bytes.data(), bytes.size(), MSG_WAITALL));
                  },
                  [](std::uint16_t port) {
                    int fd = dial(port);
                    std::string bytes = pattern(100000);
                    for (std::size_t at = 0; at < bytes.size(); at += 20000) {
                      send_all(fd, std::string_view(bytes).substr(at, 20000));
                    }
                    meet();
                    send_all(fd, "the rest");
                  }};

Scenario flags{"blocking/dontwait-and-trunc",
               [](int listener) {
                 int fd = take(listener);
                 char buffer[100] = {};
                 note("nothing yet", recv(fd, buffer, 10, MSG_DONTWAIT));
                 meet();
                 note("wait", recv(fd, buffer, 1, MSG_PEEK));
                 note("truncated", recv(fd, nullptr, 5, MSG_TRUNC));
                 note("truncated with a buffer", recv(fd, buffer, 5, MSG_TRUNC));
                 note("buffer untouched", buffer[1]);
                 note_data("next", receive_exactly(fd, 10));
                 note("read no room", read(fd, buffer, 0));
                 note("recv no room, no data", recv(fd, buffer, 0, MSG_DONTWAIT));
                 note("out of band", recv(fd, buffer, 1, MSG_OOB));
                 meet();
                 note_rest(fd);
                 note("no room at the end", recv(fd, buffer, 0, 0));
               },
               [](std::uint16_t port) {
                 int fd = dial(port);
                 meet();
                 note("send", send(fd, "0123456789abcdefghij", 20, 0));
                 note("send nothing", send(fd, "", 0, 0));
                 note("write nothing", write(fd, "", 0));
                 meet();
               }};

Scenario messages{
    "blocking/messages",
    [](int listener) {
      int fd = take(listener);
      meet();
      wait_for(fd, POLLIN);
      char a[4], b[100], control[64];
      sockaddr_in from{};
      iovec parts[2] = {{a, sizeof(a)}, {b, sizeof(b)}};
      msghdr message{&from, sizeof(from), parts, 2, control, sizeof(control), -1};
      note("recvmsg", recvmsg(fd, &message, 0));
      note("name length", message.msg_namelen);
      note("control length", static_cast<long>(message.msg_controllen));
      note("flags", message.msg_flags);
      socklen_t length = sizeof(from);
      note("go on", send(fd, ".", 1, 0));
      note("recvfrom",
           recvfrom(fd, b, 5, MSG_WAITALL, reinterpret_cast<sockaddr *>(&from), &length));
      note("from length", length);
      meet();
      await_queued(fd, 10);  // the second may wait until the first is acknowledged (Nagle)
      mmsghdr several[3] = {};
      iovec pieces[3] = {{b, 4}, {b + 4, 4}, {b + 8, 50}};
      for (int i = 0; i < 3; ++i) {
        several[i].msg_hdr.msg_iov = &pieces[i];
        several[i].msg_hdr.msg_iovlen = 1;
      }
      note("recvmmsg", recvmmsg(fd, several, 3, MSG_WAITFORONE, nullptr));
      for (auto &one : several) note("length", one.msg_len);
      note_rest(fd);
    },
    [](std::uint16_t port) {
      int fd = dial(port);
      iovec part{const_cast<char *>("0123456789"), 10};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      note("sendmsg", sendmsg(fd, &message, 0));
      meet();
      receive_exactly(fd, 1);
      sockaddr_in other = address_of(1);
      note("sendto",
           sendto(fd, "hello", 5, 0, reinterpret_cast<sockaddr *>(&other), sizeof(other)));
      mmsghdr several[2] = {};
      iovec pieces[2] = {{const_cast<char *>("aaaaaa"), 6}, {const_cast<char *>("bbbb"), 4}};
      for (int i = 0; i < 2; ++i) {
        several[i].msg_hdr.msg_iov = &pieces[i];
        several[i].msg_hdr.msg_iovlen = 1;
      }
      note("sendmmsg", sendmmsg(fd, several, 2, 0));
      note("first", several[0].msg_len);
      note("second", several[1].msg_len);
      meet();
      close(fd);
    }};

Scenario file{"blocking/sendfile",
              [](int listener) {
                int fd = take(listener);
                note_rest(fd);
              },
              [](std::uint16_t port) {
                int fd = dial(port);
                FILE *stream = std::tmpfile();
                std::string bytes = pattern(300000);
                std::fwrite(bytes.data(), 1, bytes.size(), stream);
                std::fflush(stream);
                int from = fileno(stream);
                lseek(from, 1000, SEEK_SET);
                note("own position", sendfile(fd, from, nullptr, 5000));
                note("position", lseek(from, 0, SEEK_CUR));
                off_t offset = 100;
                note("offset", sendfile(fd, from, &offset, 200000));
                note("offset after", offset);
                note("position", lseek(from, 0, SEEK_CUR));
                offset = 299000;
                note("past the end", sendfile(fd, from, &offset, 5000));
                note("at the end", sendfile(fd, from, &offset, 5000));
                note("nothing", sendfile(fd, from, &offset, 0));
                note("from a socket", sendfile(from, fd, nullptr, 10));
                std::fclose(stream);
              }};

Scenario queue{"blocking/fionread",
               [](int listener) {
                 int fd = take(listener);
                 char buffer[40000];
                 std::string all;
                 bool honest = true;
                 for (;;) {
                   wait_for(fd, POLLIN);
                   int available = -1;
                   if (ioctl(fd, FIONREAD, &available) != 0) note("FIONREAD", -1);
                   if (available == 0) {
                     // Only the end of the stream is readable and empty. (A readiness that
                     // handshake bytes or part of a record raised yields EAGAIN.)
                     ssize_t got = recv(fd, buffer, 1, MSG_DONTWAIT);
                     if (got == 0) break;
                     if (got < 0) continue;
                     all.append(buffer, 1);
                     continue;
                   }
                   std::size_t wanted =
                       std::min<std::size_t>(static_cast<std::size_t>(available), sizeof(buffer));
                   ssize_t got = recv(fd, buffer, wanted, MSG_DONTWAIT);
                   if (got != static_cast<ssize_t>(wanted)) honest = false;
                   if (got > 0) all.append(buffer, static_cast<std::size_t>(got));
                 }
                 note("as many as promised", honest);
                 note_data("all", all);
               },
               [](std::uint16_t port) {
                 int fd = dial(port);
                 std::string bytes = pattern(300000);
                 std::size_t at = 0;
                 for (std::size_t length : {1u, 10u, 100u, 20000u, 3u, 200000u}) {
                   send_all(fd, std::string_view(bytes).substr(at, length));
                   at += length;
                 }
               }};

// Reads as many bytes as FIONREAD says at each edge and no more, through a small window.
Scenario edges{"blocking/fionread-edges",
               [](int listener) {
                 int small = 4096;
                 setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
                 int fd = take(listener);
                 int set = epoll_create1(0);
                 epoll_event event{EPOLLIN | EPOLLET | EPOLLRDHUP, {}};
                 epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
                 std::string all;
                 while (all.size() < 300'000) {
                   if (epoll_wait(set, &event, 1, -1) != 1) break;
                   int available = 0;
                   ioctl(fd, FIONREAD, &available);
                   all += receive_exactly(fd, static_cast<std::size_t>(available));
                 }
                 note_data("all", all);
               },
               [](std::uint16_t port) {
                 int fd = dial(port);
                 std::string bytes = pattern(300'000);
                 send_all(fd, std::string_view(bytes).substr(0, 5));
                 send_all(fd, std::string_view(bytes).substr(5));
                 char byte;
                 recv(fd, &byte, 1, 0);
               }};

Scenario half_close{"blocking/half-close",
                    [](int listener) {
                      int fd = take(listener);
                      note_rest(fd);
                      std::string bytes = pattern(400000);
                      note("answer", send_all(fd, bytes));
                      note("shutdown", shutdown(fd, SHUT_WR));
                      signal(SIGPIPE, SIG_IGN);
                      note("send after shutdown", send(fd, "x", 1, 0));
                      note("close", close(fd));
                    },
                    [](std::uint16_t port) {
                      int fd = dial(port);
                      note("send", send_all(fd, pattern(100000, 2)));
                      note("shutdown", shutdown(fd, SHUT_WR));
                      note("send after shutdown", send(fd, "x", 1, MSG_NOSIGNAL));
                      note_rest(fd);
                      note("events", wait_for(fd, POLLIN | POLLRDHUP | POLLOUT) & ~POLLOUT);
                    }};

Scenario early_shutdown{"blocking/shutdown-at-once",
                        [](int listener) {
                          meet();  // connected, sent and shut down before it is accepted
                          int fd = take(listener);
                          note_rest(fd);
                          note("answer", send(fd, "answer", 6, 0));
                        },
                        [](std::uint16_t port) {
                          int fd = dial(port);
                          note("send", send(fd, "only this", 9, 0));
                          note("shutdown", shutdown(fd, SHUT_WR));
                          note("send after", send(fd, "x", 1, MSG_NOSIGNAL));
                          meet();
                          note_rest(fd);
                        }};

Scenario empty_connection{"blocking/nothing-sent",
                          [](int listener) {
                            int fd = take(listener);
                            note_rest(fd);
                          },
                          [](std::uint16_t port) {
                            int fd = dial(port);
                            note("close", close(fd));
                          }};

Scenario read_shutdown{"blocking/shutdown-for-reading",
                       [](int listener) {
                         int fd = take(listener);
                         note("hello", send(fd, "hello", 5, 0));
                         meet();
                         note_data("still", receive_exactly(fd, 5));
                         note_rest(fd);
                       },
                       [](std::uint16_t port) {
                         int fd = dial(port);
                         char buffer[10];
                         note("peek", recv(fd, buffer, 5, MSG_PEEK));
                         note("shutdown", shutdown(fd, SHUT_RD));
                         note("what was there", recv(fd, buffer, 10, 0));
                         note("then", recv(fd, buffer, 10, 0));
                         note("writing goes on", send(fd, "still", 5, 0));
                         meet();
                         note("shutdown both", shutdown(fd, SHUT_RDWR));
                       }};

}  // namespace
