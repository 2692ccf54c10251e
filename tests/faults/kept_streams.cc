// Streams that the C library has at a number which becomes a connection's.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/faults/stdio_ways.h"

namespace ways {
namespace {

// A stream of a file whose number is closed without the stream's knowledge.
FILE *orphaned(int *number) {
  FILE *file = std::fopen("/dev/null", "w");
  *number = fileno(file);
  close(*number);
  return file;
}

const Way kKept[] = {
    {"stdout kept",
     [] {
       FILE *kept = stdout;
       on(1);
       write_and_flush(kept);
     }},
    {"stdout kept, unbuffered",
     [] {
       FILE *kept = stdout;
       std::setvbuf(kept, nullptr, _IONBF, 0);
       on(1);
       std::fputs(canary(), kept);
     }},
    {"stdout kept, line by line",
     [] {
       FILE *kept = stdout;
       std::setvbuf(kept, nullptr, _IOLBF, 0);
       on(1);
       std::fprintf(kept, "%s\n", canary());
     }},
    {"stdout kept, putc_unlocked",
     [] {
       FILE *kept = stdout;
       on(1);
       for (char c : g_canary) putc_unlocked(c, kept);
     }},
    {"stdout kept, fwprintf",
     [] {
       FILE *kept = stdout;
       on(1);
       std::fwprintf(kept, L"%s", canary());
     }},
    {"stdout kept, exit",
     [] {
       FILE *kept = stdout;
       on(1);
       std::fputs(canary(), kept);
     }},
    {"stdout kept, fflush of all",
     [] {
       FILE *kept = stdout;
       on(1);
       std::fputs(canary(), kept);
       std::fflush(nullptr);
     }},
    {"stdout kept, fclose",
     [] {
       FILE *kept = stdout;
       on(1);
       std::fputs(canary(), kept);
       std::fclose(kept);
     }},
    {"stdout kept, freopen",
     [] {
       FILE *kept = stdout;
       on(1);
       std::fputs(canary(), kept);
       if (std::freopen("/dev/null", "w", kept) == nullptr) _exit(6);
     }},
    {"stdout kept, closed and connected",
     [] {
       FILE *kept = stdout;
       close(1);
       hear_greeting(dial());
       write_and_flush(kept);
     }},
    {"stdout's buffer",
     [] {
       std::fputs(canary(), stdout);
       on(1);
       std::fflush(stdout);
     }},
    {"stdout kept, its number",
     [] {
       FILE *kept = stdout;
       on(1);
       if (write(fileno(kept), canary(), g_canary.size()) < 0) _exit(7);
     }},
    {"stdout kept, used before and after",
     [] {
       FILE *kept = stdout;
       int saved = dup(1);
       std::fputs("before ", kept);
       std::fflush(kept);
       on(1);
       std::printf("%s", canary());
       std::fflush(stdout);
       dup2(saved, 1);
       if (std::fputs("after", kept) < 0 || std::fflush(kept) != 0) _exit(7);
     }},
    {"a file's stream, then dup2",
     [] {
       FILE *file = std::fopen("/dev/null", "w");
       on(fileno(file));
       write_and_flush(file);
     }},
    {"a file's stream, then dup2, exit",
     [] {
       FILE *file = std::fopen("/dev/null", "w");
       std::fputs(canary(), file);
       on(fileno(file));
     }},
    {"a file's stream, then dup3",
     [] {
       FILE *file = std::fopen("/dev/null", "w");
       dup3(established(), fileno(file), O_CLOEXEC);
       write_and_flush(file);
     }},
    {"a file's stream, then fcntl",
     [] {
       int number = 0, fd = established();
       FILE *file = orphaned(&number);
       if (fcntl(fd, F_DUPFD, number) != number) _exit(7);
       write_and_flush(file);
     }},
    {"a file's stream, then connect",
     [] {
       int number = 0;
       FILE *file = orphaned(&number);
       int fd = dial();
       if (fd != number) _exit(7);
       hear_greeting(fd);
       write_and_flush(file);
     }},
    {"a file's stream, received in a message",
     [] {
       int pair[2], fd = established(), number = 0;
       socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
       FILE *file = orphaned(&number);
       char byte = 0;
       iovec part{&byte, 1};
       alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
       msghdr message{};
       message.msg_iov = &part;
       message.msg_iovlen = 1;
       message.msg_control = control;
       message.msg_controllen = sizeof control;
       cmsghdr *header = CMSG_FIRSTHDR(&message);
       header->cmsg_level = SOL_SOCKET;
       header->cmsg_type = SCM_RIGHTS;
       header->cmsg_len = CMSG_LEN(sizeof(int));
       std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
       sendmsg(pair[0], &message, 0);
       recvmsg(pair[1], &message, 0);
       std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
       if (fd != number) _exit(7);
       write_and_flush(file);
     }},
    {"a wide stream, then dup2",
     [] {
       FILE *file = std::fopen("/dev/null", "w");
       std::fwide(file, 1);
       on(fileno(file));
       std::fwprintf(file, L"%s", canary());
       std::fflush(file);
     }},
    {"a pipe's stream, then dup2",
     [] {
       FILE *file = popen("cat >/dev/null", "w");
       on(fileno(file));
       write_and_flush(file);
       _exit(0);  // the command waits for the end of its input
     }},
    {"tmpfile, then dup2",
     [] {
       FILE *file = std::tmpfile();
       on(fileno(file));
       write_and_flush(file);
     }},
    {"two streams, then dup2",
     [] {
       int fd = open("/dev/null", O_RDWR);
       FILE *one = fdopen(fd, "w"), *other = fdopen(fd, "w");
       on(fd);
       write_and_flush(one);
       write_and_flush(other);
     }},
};

}  // namespace

std::span<const Way> kept_streams() { return kKept; }

}  // namespace ways
