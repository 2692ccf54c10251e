// Every flag of the receive and send calls, alone and combined; sizes of all kinds against each
// other; vectors.
#include <algorithm>
#include <climits>
#include <vector>

#include "behaviour.h"

using namespace behaviour;

namespace {

constexpr int kReceiveFlags[] = {MSG_PEEK,     MSG_WAITALL,      MSG_TRUNC,
                                 MSG_DONTWAIT, MSG_CMSG_CLOEXEC, MSG_NOSIGNAL};

int combination(unsigned which, const int *flags, unsigned count) {
  int combined = 0;
  for (unsigned i = 0; i < count; ++i) {
    if ((which >> i & 1) != 0) combined |= flags[i];
  }
  return combined;
}

enum class Call { recv, recvfrom, recvmsg, recvmmsg };

ssize_t receive_by(Call call, int fd, char *buffer, std::size_t length, int flags) {
  iovec parts[2] = {{buffer, length / 2}, {buffer + length / 2, length - length / 2}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_flags = -1;
  switch (call) {
    case Call::recv:
      return recv(fd, buffer, length, flags);
    case Call::recvfrom:
      return recvfrom(fd, buffer, length, flags, nullptr, nullptr);
    case Call::recvmsg: {
      ssize_t got = recvmsg(fd, &message, flags);
      if (got >= 0) note("flags", message.msg_flags);
      return got;
    }
    case Call::recvmmsg: {
      mmsghdr one{message, 77};
      int got = recvmmsg(fd, &one, 1, flags, nullptr);
      if (got < 0) return got;
      note("messages", got);
      note("flags", one.msg_hdr.msg_flags);
      return one.msg_len;
    }
  }
  return -1;
}

// Two messages of ten bytes wait; then there are ten left, then none, then the end.
void every_receive_flag(int listener, Call call) {
  int fd = take(listener);
  for (unsigned which = 0; which < 1u << std::size(kReceiveFlags); ++which) {
    int flags = combination(which, kReceiveFlags, std::size(kReceiveFlags));
    tell(0);
    await_queued(fd, 20);
    note("with", flags);
    long taken = 0;
    for (std::size_t length : {0u, 4u, 16u, 40u}) {
      // No call may wait for what does not come.
      bool waits = (flags & MSG_DONTWAIT) == 0;
      if (waits && ((flags & MSG_WAITALL) != 0 || taken == 20) &&
          static_cast<long>(length) > 20 - taken) {
        continue;
      }
      char buffer[40] = {};
      ssize_t got = receive_by(call, fd, buffer, length, flags);
      note("received", got);
      note_data("bytes", {buffer, sizeof buffer});
      if (got > 0 && (flags & MSG_PEEK) == 0) taken += got;
    }
    receive_exactly(fd, static_cast<std::size_t>(20 - taken));
  }
  tell(1);
  wait_for(fd, POLLRDHUP);
  for (unsigned which = 0; which < 1u << std::size(kReceiveFlags); ++which) {
    int flags = combination(which, kReceiveFlags, std::size(kReceiveFlags));
    char buffer[10];
    ssize_t got = receive_by(call, fd, buffer, sizeof buffer, flags);
    if (got != 0) note("at the end", got);
  }
}

void send_twice_on_cue(std::uint16_t port) {
  int fd = dial(port);
  int at_once = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
  while (told() == 0) {
    send_all(fd, "0123456789");
    send_all(fd, "abcdefghij");
  }
  close(fd);
}

Scenario recv_flags{"flags/recv", [](int listener) { every_receive_flag(listener, Call::recv); },
                    send_twice_on_cue};
Scenario recvfrom_flags{"flags/recvfrom",
                        [](int listener) { every_receive_flag(listener, Call::recvfrom); },
                        send_twice_on_cue};
Scenario recvmsg_flags{"flags/recvmsg",
                       [](int listener) { every_receive_flag(listener, Call::recvmsg); },
                       send_twice_on_cue};
Scenario recvmmsg_flags{"flags/recvmmsg",
                        [](int listener) { every_receive_flag(listener, Call::recvmmsg); },
                        send_twice_on_cue};

// What none of the calls above has: the error queue, which is empty, and its combinations.
Scenario error_queue{"flags/error-queue",
                     [](int listener) {
                       int fd = take(listener);
                       await_queued(fd, 5);
                       char buffer[8];
                       for (int more : {0, +MSG_PEEK, +MSG_DONTWAIT, +MSG_WAITALL, +MSG_TRUNC}) {
                         note("recv", recv(fd, buffer, sizeof buffer, MSG_ERRQUEUE | more));
                         iovec part{buffer, sizeof buffer};
                         msghdr message{};
                         message.msg_iov = &part;
                         message.msg_iovlen = 1;
                         note("recvmsg", recvmsg(fd, &message, MSG_ERRQUEUE | more));
                         mmsghdr one{message, 0};
                         note("recvmmsg", recvmmsg(fd, &one, 1, MSG_ERRQUEUE | more, nullptr));
                       }
                       note_rest(fd);
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       send_all(fd, "hello");
                     }};

constexpr int kSendFlags[] = {MSG_DONTROUTE, MSG_DONTWAIT, MSG_EOR,
                              MSG_CONFIRM,   MSG_NOSIGNAL, MSG_MORE};

enum class Way { send, sendto, sendmsg, sendmmsg };

ssize_t send_by(Way way, int fd, std::string_view bytes, int flags) {
  auto *data = const_cast<char *>(bytes.data());
  iovec parts[2] = {{data, 3}, {data + 3, bytes.size() - 3}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  switch (way) {
    case Way::send:
      return send(fd, data, bytes.size(), flags);
    case Way::sendto:
      return sendto(fd, data, bytes.size(), flags, nullptr, 0);
    case Way::sendmsg:
      return sendmsg(fd, &message, flags);
    case Way::sendmmsg: {
      mmsghdr one{message, 0};
      int sent = sendmmsg(fd, &one, 1, flags);
      return sent < 0 ? sent : static_cast<ssize_t>(one.msg_len);
    }
  }
  return -1;
}

// Each combination by each call, the first ones before the session is up.
Scenario send_flags{"flags/send",
                    [](int listener) {
                      meet();
                      int fd = take(listener);
                      note_rest(fd);
                    },
                    [](std::uint16_t port) {
                      int fd = dial(port);
                      for (unsigned which = 0; which < 1u << std::size(kSendFlags); ++which) {
                        int flags = combination(which, kSendFlags, std::size(kSendFlags));
                        if (which == 20) meet();
                        for (Way way : {Way::send, Way::sendto, Way::sendmsg, Way::sendmmsg}) {
                          note("sent", send_by(way, fd, pattern(50, which), flags));
                        }
                      }
                      note("the rest", shutdown(fd, SHUT_WR));
                      for (int flags : {0, +MSG_DONTWAIT, +MSG_MORE, +MSG_EOR}) {
                        note("after", send(fd, "x", 1, flags | MSG_NOSIGNAL));
                        note("nothing, after", send(fd, "", 0, flags | MSG_NOSIGNAL));
                      }
                      char c;
                      note("end", recv(fd, &c, 1, 0));
                    }};

// MSG_FASTOPEN where there is a connection already.
Scenario fast_open_again{"flags/fast-open-when-connected",
                         [](int listener) {
                           int fd = take(listener);
                           note_rest(fd);
                         },
                         [](std::uint16_t port) {
                           int fd = dial(port);
                           sockaddr_in address = address_of(port);
                           auto *to = reinterpret_cast<sockaddr *>(&address);
                           note("send", send(fd, "one", 3, 0));
                           note("again", sendto(fd, "two", 3, MSG_FASTOPEN, to, sizeof address));
                           note("nowhere", send(fd, "three", 5, MSG_FASTOPEN));
                           iovec part{const_cast<char *>("four"), 4};
                           msghdr message{};
                           message.msg_name = to;
                           message.msg_namelen = sizeof address;
                           message.msg_iov = &part;
                           message.msg_iovlen = 1;
                           note("sendmsg", sendmsg(fd, &message, MSG_FASTOPEN));
                           note("send", send(fd, "five", 4, 0));
                         }};

// --- how many at once
// ---------------------------------------------------------------------------

Scenario several{"flags/recvmmsg-several",
                 [](int listener) {
                   int fd = take(listener);
                   char buffers[4][8] = {};
                   iovec parts[4];
                   mmsghdr messages[4] = {};
                   auto receive = [&](unsigned count, int flags, timespec *limit) {
                     for (unsigned i = 0; i < 4; ++i) {
                       parts[i] = {buffers[i], sizeof buffers[i]};
                       messages[i] = {};
                       messages[i].msg_hdr.msg_iov = &parts[i];
                       messages[i].msg_hdr.msg_iovlen = 1;
                       messages[i].msg_len = 99;
                     }
                     int got = recvmmsg(fd, messages, count, flags, limit);
                     note("recvmmsg", got);
                     for (auto &one : messages) note("length", one.msg_len);
                   };
                   await_queued(fd, 20);
                   receive(0, 0, nullptr);
                   receive(2, MSG_PEEK, nullptr);
                   receive(4, MSG_DONTWAIT, nullptr);
                   receive(4, MSG_DONTWAIT, nullptr);
                   tell(0);
                   await_queued(fd, 20);
                   receive(4, MSG_WAITFORONE, nullptr);
                   timespec bad{0, 2'000'000'000};
                   receive(1, 0, &bad);
                   // Over at once: looked at when the first message is there.
                   tell(0);
                   await_queued(fd, 20);
                   timespec none{0, 0};
                   receive(4, 0, &none);
                   timespec plenty{50, 0};
                   receive(1, MSG_WAITALL, &plenty);
                   note("less is left", plenty.tv_sec < 50);
                   receive_exactly(fd, 20 - 2 * 8);
                   tell(1);
                   wait_for(fd, POLLRDHUP);
                   receive(4, 0, nullptr);
                   receive(4, MSG_WAITFORONE, nullptr);
                   receive(3, MSG_PEEK | MSG_WAITALL, nullptr);
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   do {
                     send_all(fd, "0123456789");
                     send_all(fd, "abcdefghij");
                   } while (told() == 0);
                   close(fd);
                 }};

Scenario look_ahead{"flags/peek-across-records",
                    [](int listener) {
                      int fd = take(listener);
                      std::string looked(200'000, '\0');
                      await_queued(fd, 41'000);
                      for (std::size_t length : {1u, 999u, 1000u, 1001u, 20'000u, 41'000u}) {
                        note("peek", recv(fd, looked.data(), length, MSG_PEEK));
                        note_data("looked at", std::string_view(looked).substr(0, length));
                        note("by vectors", recv(fd, looked.data(), length, MSG_PEEK | MSG_WAITALL));
                        note("uncopied", recv(fd, nullptr, length, MSG_PEEK | MSG_TRUNC));
                      }
                      // Across what is half taken.
                      note_data("some", receive_exactly(fd, 500));
                      note("peek", recv(fd, looked.data(), 30'000, MSG_PEEK));
                      note_data("looked at", std::string_view(looked).substr(0, 30'000));
                      // Waits for what is not there yet.
                      tell(0);
                      note("all of it", recv(fd, looked.data(), 100'000, MSG_PEEK | MSG_WAITALL));
                      note_data("looked at", std::string_view(looked).substr(0, 100'000));
                      tell(0);
                      // And not for more than the end.
                      note("to the end", recv(fd, looked.data(), 200'000, MSG_PEEK | MSG_WAITALL));
                      note_data("looked at", looked);
                      note_rest(fd);
                    },
                    [](std::uint16_t port) {
                      int fd = dial(port);
                      std::string bytes = pattern(105'000);
                      std::string_view left = bytes;
                      auto say_next = [&](std::size_t length) {
                        send_all(fd, left.substr(0, length));
                        left.remove_prefix(length);
                      };
                      for (std::size_t length : {1000u, 30'000u, 10'000u}) say_next(length);
                      told();
                      for (int i = 0; i < 6; ++i) say_next(10'000);
                      told();
                      say_next(left.size());
                      close(fd);
                    }};

// --- sizes ----------------------------------------------------------------------------------

constexpr std::size_t kSizes[] = {1, 2, 1000, 16383, 16384, 16385, 65536, 1u << 20};

std::size_t amount(std::size_t written, std::size_t read) {
  std::size_t smaller = std::min(written, read);
  std::size_t most = std::max(written, read);
  return std::max(most, std::min<std::size_t>(smaller * 500, 100'000)) + 7;
}

Scenario sizes{"flags/sizes-against-sizes",
               [](int listener) {
                 int fd = take(listener);
                 std::string buffer(1u << 20, '\0');
                 for (std::size_t written : kSizes) {
                   for (std::size_t read_size : kSizes) {
                     std::size_t left = amount(written, read_size);
                     // One byte at a time is slow work: as much of it as tells.
                     std::size_t slow = read_size < 1000 ? 2000 : left;
                     std::string all;
                     bool large_answer = false;
                     while (left > 0) {
                       std::size_t room = std::min(slow > 0 ? read_size : buffer.size(), left);
                       ssize_t got = read(fd, buffer.data(), room);
                       if (got <= 0) return note("read", got);
                       auto length = static_cast<std::size_t>(got);
                       large_answer |= length > room;
                       all.append(buffer, 0, length);
                       left -= length;
                       slow -= std::min(slow, length);
                     }
                     note("more than asked for", large_answer);
                     note_data("all", all);
                   }
                 }
               },
               [](std::uint16_t port) {
                 int fd = dial(port);
                 for (std::size_t written : kSizes) {
                   for (std::size_t read_size : kSizes) {
                     std::string bytes = pattern(amount(written, read_size));
                     std::string_view left = bytes;
                     std::size_t slow = written < 1000 ? 2000 : left.size();
                     while (!left.empty()) {
                       std::size_t length = std::min(slow > 0 ? written : left.size(), left.size());
                       if (write(fd, left.data(), length) != static_cast<ssize_t>(length)) {
                         return note("write", -1);
                       }
                       left.remove_prefix(length);
                       slow -= std::min(slow, length);
                     }
                   }
                 }
                 note("close", close(fd));
               }};

Scenario vectors{"flags/many-vectors",
                 [](int listener) {
                   int fd = take(listener);
                   std::string all(100'000, '\0');
                   std::vector<iovec> parts(IOV_MAX);
                   for (std::size_t i = 0; i < parts.size(); ++i) {
                     parts[i] = {all.data() + i / 2, i % 2};
                   }
                   await_queued(fd, 1000);
                   note("readv", readv(fd, parts.data(), IOV_MAX));
                   note_data("one byte each", std::string_view(all).substr(0, IOV_MAX / 2));
                   msghdr message{};
                   message.msg_iov = parts.data();
                   message.msg_iovlen = parts.size();
                   note("recvmsg", recvmsg(fd, &message, MSG_WAITALL));
                   note_data("one byte each", std::string_view(all).substr(0, IOV_MAX / 2));
                   message.msg_iovlen = IOV_MAX + 1;
                   note("too many", recvmsg(fd, &message, MSG_DONTWAIT));
                   message.msg_iovlen = 0;
                   note("none", recvmsg(fd, &message, MSG_DONTWAIT | MSG_PEEK));
                   await_queued(fd, 100);
                   iovec halves[2] = {{all.data(), 10}, {all.data() + 10, 10}};
                   note("preadv2", preadv2(fd, halves, 2, -1, RWF_NOWAIT));
                   note("at", preadv2(fd, halves, 2, 5, 0));
                   note("unknown", preadv2(fd, halves, 2, -1, 0x40000000));
                   note("pwritev2", pwritev2(fd, halves, 2, -1, RWF_DSYNC));
                   meet();
                   note_rest(fd);
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   std::string bytes = pattern(IOV_MAX + 100);
                   std::vector<iovec> parts(IOV_MAX);
                   for (std::size_t i = 0; i < parts.size(); ++i) parts[i] = {bytes.data() + i, 1};
                   note("writev", writev(fd, parts.data(), IOV_MAX));
                   note("pwritev2", pwritev2(fd, parts.data(), 100, -1, 0));
                   msghdr message{};
                   message.msg_iov = parts.data();
                   message.msg_iovlen = IOV_MAX + 1;
                   note("too many", sendmsg(fd, &message, 0));
                   message.msg_iovlen = 0;
                   note("none", sendmsg(fd, &message, 0));
                   note_data("back", receive_exactly(fd, 20));
                   meet();
                   close(fd);
                 }};

}  // namespace
