// What inlay cannot carry over a protected connection, and refuses with an errno of the kernel's:
// README.md lists these. What the connection does next is as on TCP.
#include "behaviour.h"

using namespace behaviour;

namespace {

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

void take_all(int listener) { note_rest(take(listener)); }

Scenario out_of_band{"refused/out-of-band", take_all, [](std::uint16_t port) {
                       int fd = dial(port);
                       note("out of band", send(fd, "!", 1, MSG_OOB));
                       note("in it", send(fd, "in band", 7, 0));
                     }};

Scenario zero_copy{"refused/zero-copy", take_all, [](std::uint16_t port) {
                     int fd = dial(port);
                     const int on = 1;
                     note("option", setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)));
                     note("with the flag", send(fd, "from here", 9, MSG_ZEROCOPY));
                     note("without", send(fd, "a copy", 6, 0));
                   }};

Scenario spliced_in{"refused/splice-into-a-connection", take_all, [](std::uint16_t port) {
                      int fd = dial(port);
                      int pipes[2];
                      note("pipe", pipe(pipes));
                      note("write", write(pipes[1], "through a pipe", 14));
                      note("splice", splice(pipes[0], nullptr, fd, nullptr, 14, 0));
                      note("send", send(fd, "and not", 7, 0));
                    }};

Scenario spliced_out{"refused/splice-out-of-a-connection",
                     [](int listener) {
                       int fd = take(listener);
                       int pipes[2];
                       note("pipe", pipe(pipes));
                       note("splice", splice(fd, nullptr, pipes[1], nullptr, 5, 0));
                       note_rest(fd);
                     },
                     [](std::uint16_t port) { send_all(dial(port), "bytes for a pipe"); }};

}  // namespace
