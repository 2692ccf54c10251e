// What inlay cannot carry over a protected connection, and refuses with an errno of the kernel's:
// README.md lists these. What the connection does next is as on TCP.
#include <aio.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>

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

// The C library's threads, or the kernel, would move bytes that nobody sealed.
Scenario asynchronous{"refused/asynchronous", take_all, [](std::uint16_t port) {
                        int fd = dial(port);
                        char text[] = "text";
                        aiocb request{};
                        request.aio_fildes = fd;
                        request.aio_buf = text;
                        request.aio_nbytes = 4;
                        const aiocb *list[] = {&request};
                        note("aio_write", aio_write(&request));
                        while (aio_error(&request) == EINPROGRESS) aio_suspend(list, 1, nullptr);
                        aio_context_t context = 0;
                        note("io_setup", syscall(SYS_io_setup, 4, &context));
                        iocb one{};
                        one.aio_fildes = static_cast<std::uint32_t>(fd);
                        one.aio_lio_opcode = IOCB_CMD_PWRITE;
                        one.aio_buf = reinterpret_cast<std::uintptr_t>(text);
                        one.aio_nbytes = 4;
                        iocb *requests[] = {&one};
                        note("io_submit", syscall(SYS_io_submit, context, 1, requests));
                        note("send", send(fd, "and not", 7, 0));
                      }};

// Memory that is there and may not be touched.
Scenario untouchable{"refused/an-address-that-may-not-be-read", take_all, [](std::uint16_t port) {
                       int fd = dial(port);
                       void *page =
                           mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                       pid_t child = fork();
                       if (child == 0) {
                         fd = dial(port);
                         _exit(send(fd, page, 100, 0) == -1 && errno == EFAULT ? 7 : 8);
                       }
                       int status = 0;
                       waitpid(child, &status, 0);
                       note("a child's status", status);
                       send_all(fd, "goes on");
                     }};

}  // namespace
