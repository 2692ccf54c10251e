// SO_PEEK_OFF, which TCP has from Linux 6.9 on.
#include "behaviour.h"

using namespace behaviour;

namespace {

// Without a look at it.
void await_there(int fd, int length) {
  for (int there = 0; there < length; sched_yield()) ioctl(fd, FIONREAD, &there);
}

void note_offset(int fd) {
  int offset = -7;
  socklen_t length = sizeof offset;
  note("asked", getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &length));
  note("offset", offset);
}
void set_offset(int fd, int offset) {
  note("set", setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset));
}
void look(int fd, std::size_t length, int flags) {
  char buffer[64] = {};
  note("look", recv(fd, buffer, length, MSG_PEEK | flags));
  note_data("at", {buffer, sizeof buffer});
  note_offset(fd);
}

Scenario peek_offset{"options/peek-offset",
                     [](int listener) {
                       set_offset(listener, 3);  // which what it accepts has as well
                       meet();
                       int fd = take(listener);
                       await_there(fd, 3);
                       note_offset(fd);
                       note("nothing behind", recv(fd, nullptr, 0, MSG_PEEK | MSG_DONTWAIT));
                       meet();
                       look(fd, 4, 0);  // waits for the second message
                       await_there(fd, 20);
                       set_offset(fd, 0);
                       look(fd, 2, 0);
                       look(fd, 6, 0);
                       look(fd, 64, 0);
                       look(fd, 8, MSG_DONTWAIT);
                       set_offset(fd, 18);
                       look(fd, 2, MSG_WAITALL);
                       char taken[8];
                       note("recv", recv(fd, taken, 5, 0));
                       note_offset(fd);
                       note("discarded", recv(fd, nullptr, 4, MSG_TRUNC));
                       note_offset(fd);
                       set_offset(fd, 2);
                       note("recv", recv(fd, taken, 5, 0));
                       note_offset(fd);
                       set_offset(fd, -1);
                       look(fd, 3, 0);
                       look(fd, 3, 0);
                       note("recv", recv(fd, taken, 2, 0));
                       note_offset(fd);
                       char little[2] = {};
                       note("too little", setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, little, 2));
                       socklen_t two = 2;
                       note("asked", getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, little, &two));
                       note("length", two);
                       tell(0);
                       wait_for(fd, POLLRDHUP);
                       set_offset(fd, 2);
                       look(fd, 64, 0);
                       look(fd, 64, 0);
                       look(fd, 64, MSG_DONTWAIT);
                       note_rest(fd);
                     },
                     [](std::uint16_t port) {
                       meet();
                       int fd = socket(AF_INET, SOCK_STREAM, 0);
                       set_offset(fd, 1);
                       sockaddr_in address = address_of(port);
                       note("connect",
                            connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address));
                       note_offset(fd);
                       send_all(fd, "abc");
                       meet();
                       send_all(fd, "0123456789");
                       send_all(fd, "klmnopq");
                       told();
                       note("end", shutdown(fd, SHUT_WR));
                       char c;
                       note("recv", recv(fd, &c, 1, 0));
                     }};

// One that waits behind what there is: for more, or for the end.
Scenario peek_offset_waits{"options/peek-offset-waits",
                           [](int listener) {
                             int fd = take(listener);
                             await_there(fd, 3);
                             set_offset(fd, 3);
                             std::atomic<int> sleeper{gettid()};
                             for (const char *what : {"more", "the end"}) {
                               std::thread cue([&] {
                                 await_asleep(sleeper);
                                 tell(1);
                               });
                               say("for", what);
                               look(fd, 8, 0);
                               cue.join();
                             }
                             note_rest(fd);
                           },
                           [](std::uint16_t port) {
                             int fd = dial(port);
                             send_all(fd, "abc");
                             told();
                             send_all(fd, "more");
                             told();
                             close(fd);
                           }};

}  // namespace
