// What old and strange programs do: threads without the C library, coroutines, jumps, numbers that
// are closed twice or all at once, memory where nobody looks for it.
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include <algorithm>
#include <csetjmp>

#include "behaviour.h"

using namespace behaviour;

namespace {

// Gives back what comes, until the end.
void echo(int listener) {
  int fd = take(listener);
  char buffer[4096];
  for (ssize_t got; (got = recv(fd, buffer, sizeof buffer, 0)) > 0;) {
    send_all(fd, {buffer, static_cast<std::size_t>(got)});
  }
  note("end", shutdown(fd, SHUT_WR));
}
void ask(int fd, std::string_view what) {
  note("send", send(fd, what.data(), what.size(), 0));
  note_data("answer", receive_exactly(fd, what.size()));
}

// --- a thread by clone(2) alone: it shares what is thread-local with who made it -----------------

constexpr int kMessages = 5000;
constexpr std::size_t kStack = 64 * 1024;

struct Bare {
  int fd;
  int wrong = 0;
  std::atomic<int> thread{1};  // the kernel clears it
};

int send_many(void *argument) {
  auto &bare = *static_cast<Bare *>(argument);
  for (int i = 0; i < kMessages; ++i) bare.wrong += send(bare.fd, "b", 1, 0) != 1;
  syscall(SYS_exit, 0);
  return 0;
}

Scenario bare_threads{
    "legacy/threads-by-clone-alone",
    [](int listener) {
      int fd = take(listener);
      std::string all = receive_exactly(fd, 3 * kMessages);
      note("of them", static_cast<long>(all.size()));
      note("b", std::count(all.begin(), all.end(), 'b'));
      note_rest(fd);
    },
    [](std::uint16_t port) {
      Bare bare[2] = {{dial(port)}, {0}};
      bare[1].fd = bare[0].fd;
      auto *stacks = static_cast<char *>(
          mmap(nullptr, 2 * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      for (int i = 0; i < 2; ++i) {
        int thread = clone(send_many, stacks + static_cast<std::size_t>(i + 1) * kStack,
                           CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD |
                               CLONE_SYSVSEM | CLONE_CHILD_CLEARTID,
                           &bare[i], nullptr, nullptr, &bare[i].thread);
        note("clone", thread > 0);
      }
      int wrong = 0;
      for (int i = 0; i < kMessages; ++i) wrong += send(bare[0].fd, "m", 1, 0) != 1;
      for (Bare &one : bare) {
        while (one.thread != 0) sched_yield();
        note("wrong", one.wrong);
      }
      note("wrong here", wrong);
      send_all(bare[0].fd, "and the rest");
    }};

// --- coroutines and jumps ------------------------------------------------------------------------

ucontext_t g_main, g_routines[2];
int g_numbers[2];

void routine(int which) {
  for (int i = 0; i < 3; ++i) {
    if (which == 0) note("send", send(g_numbers[0], "ping", 4, 0));
    swapcontext(&g_routines[which], &g_routines[1 - which]);
    if (which == 1) note_data("received", receive_exactly(g_numbers[1], 4));
  }
  setcontext(&g_main);
}

Scenario coroutines{"legacy/coroutines", echo, [](std::uint16_t port) {
                      g_numbers[0] = dial(port);
                      g_numbers[1] = dup(g_numbers[0]);
                      static char stacks[2][16384];
                      for (int i = 0; i < 2; ++i) {
                        getcontext(&g_routines[i]);
                        g_routines[i].uc_stack.ss_sp = stacks[i];
                        g_routines[i].uc_stack.ss_size = sizeof stacks[i];
                        makecontext(&g_routines[i], reinterpret_cast<void (*)()>(routine), 1, i);
                      }
                      swapcontext(&g_main, &g_routines[0]);
                      ask(g_numbers[1], "after them");
                    }};

Scenario jumps{"legacy/setjmp-loop", echo, [](std::uint16_t port) {
                 static jmp_buf again;
                 static int fd, rounds;
                 fd = dial(port);
                 if (setjmp(again) < 5) {
                   ask(fd, "once more");
                   longjmp(again, ++rounds);
                 }
                 note("rounds", rounds);
               }};

// On a stack of its own that is small.
int g_signalled;
Scenario alternate{"legacy/handler-on-a-small-stack", echo, [](std::uint16_t port) {
                     g_signalled = dial(port);
                     static char small[8192];
                     stack_t stack{};
                     stack.ss_sp = small;
                     stack.ss_size = sizeof small;
                     sigaltstack(&stack, nullptr);
                     struct sigaction action {};
                     action.sa_handler = [](int) {
                       char c;
                       while (send(g_signalled, "h", 1, 0) < 0) {
                       }
                       while (recv(g_signalled, &c, 1, 0) < 0) {
                       }
                     };
                     action.sa_flags = SA_ONSTACK;
                     sigaction(SIGUSR1, &action, nullptr);
                     for (int i = 0; i < 20; ++i) raise(SIGUSR1);
                     ask(g_signalled, "after them");
                   }};

// --- numbers
// ---------------------------------------------------------------------------------------

Scenario twice{"legacy/closed-twice", echo, [](std::uint16_t port) {
                 int fd = dial(port);
                 ask(fd, "hello");
                 note("close", close(fd));
                 note("close", close(fd));
                 int file = open("/dev/null", O_WRONLY);
                 note("the same number", file == fd);
                 note("write", write(file, "abc", 3));
                 note("close", close(fd));
                 note("write", write(file, "abc", 3));
                 note("send", send(fd, "abc", 3, MSG_NOSIGNAL));
               }};

Scenario storm{"legacy/dup2-storm", echo, [](std::uint16_t port) {
                 int fd = dial(port);
                 int wrong = 0;
                 for (int i = 0; i < 2000; ++i) {
                   int to = 100 + i % 50;
                   wrong += dup2(i % 2 == 0 ? fd : 100 + (i + 7) % 50, to) != to && i > 100;
                   if (i % 3 == 0) close(to);
                   if (i % 5 == 0) send(to, "", 0, MSG_NOSIGNAL);
                 }
                 note("wrong at times", wrong > 0);
                 for (int to = 100; to < 150; ++to) close(to);
                 ask(fd, "the first one");
               }};

// inlay's own among them, by system calls that no hook sees.
void close_past_the_hooks(int fd) {
#if defined(__x86_64__)
  long result = fd;
  asm volatile("syscall" : "=a"(result) : "a"(SYS_close), "D"(result) : "rcx", "r11", "memory");
#else
  close(fd);
#endif
}

Scenario all_closed{"legacy/all-other-numbers-closed-past-the-hooks",
                    [](int listener) {
                      echo(listener);
                      echo(listener);
                    },
                    [](std::uint16_t port) {
                      int fd = dial(port);
                      ask(fd, "before");
                      for (int other = 300; other < 20000; ++other) close_past_the_hooks(other);
                      ask(fd, "after");
                      note("close", close(fd));
                      int ends[2];
                      note("pipe", pipe(ends));
                      fd = dial(port);
                      ask(fd, "another");
                      char c = 0;
                      note("write", write(ends[1], "p", 1));
                      note("read", read(ends[0], &c, 1));
                    }};

// A vfork child that does more than it may.
Scenario abused_vfork{"legacy/vfork-child-that-sends-and-closes", echo, [](std::uint16_t port) {
                        int fd = dial(port);
                        ask(fd, "before");
                        pid_t child = vfork();
                        if (child == 0) {
                          if (send(fd, "child", 5, 0) != 5) _exit(1);
                          dup2(fd, 60);
                          close(fd);
                          if (send(60, "still", 5, 0) != 5) _exit(2);
                          _exit(7);
                        }
                        int status = 0;
                        waitpid(child, &status, 0);
                        note("child", WEXITSTATUS(status));
                        note_data("of the child", receive_exactly(fd, 10));
                        ask(fd, "after");
                      }};

// --- memory
// ----------------------------------------------------------------------------------------

// Who may maps the lowest page of all; the kernel does not mind.
Scenario low{"legacy/low-addresses", echo, [](std::uint16_t port) {
               int fd = dial(port);
               for (std::uintptr_t at : {std::uintptr_t{0x10000}, std::uintptr_t{0}}) {
                 void *page = mmap(reinterpret_cast<void *>(at), 4096, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
                 if (page == MAP_FAILED) continue;
                 auto *text = reinterpret_cast<volatile char *>(at + 1);
                 for (int i = 0; i < 3; ++i) text[i] = static_cast<char>('a' + i);
                 note("send", send(fd, reinterpret_cast<void *>(at + 1), 3, 0));
                 text[0] = 0;
                 note("recv", recv(fd, reinterpret_cast<void *>(at + 1), 3, MSG_WAITALL));
                 note("first", text[0]);
                 munmap(page, 4096);
               }
             }};

// What a mistake gives a call as an address. `nowhere`: such a one.
void note_bad(int fd, void *nowhere) {
  char data[8];
  iovec two[] = {{data, 2}, {nowhere, 3}};
  msghdr message{};
  message.msg_iov = two;
  message.msg_iovlen = 2;
  note("send", send(fd, nowhere, 100, MSG_DONTWAIT));
  note("writev", writev(fd, two, 2));
  note("vectors", writev(fd, static_cast<iovec *>(nowhere), 1));
  note("sendmsg", sendmsg(fd, &message, 0));
  note("message", sendmsg(fd, static_cast<msghdr *>(nowhere), 0));
  note("sendmmsg", sendmmsg(fd, static_cast<mmsghdr *>(nowhere), 1, 0));
  note("recv", recv(fd, nowhere, 100, 0));
  note("vectors", readv(fd, static_cast<iovec *>(nowhere), 1));
  note("message", recvmsg(fd, static_cast<msghdr *>(nowhere), 0));
  note("recvmmsg", recvmmsg(fd, static_cast<mmsghdr *>(nowhere), 1, 0, nullptr));
  note("FIONREAD", ioctl(fd, FIONREAD, nowhere));
  socklen_t length = 4;
  note("SO_RCVLOWAT", getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, nowhere, &length));
  note("its length",
       getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, data, static_cast<socklen_t *>(nowhere)));
  note("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, nowhere, 4));
}

Scenario bad_addresses{"legacy/addresses-nobody-has", echo, [](std::uint16_t port) {
                         int fd = dial(port);
                         send_all(fd, "hello");
                         await_queued(fd, 5);
                         for (std::uintptr_t at : {std::uintptr_t{8}, ~std::uintptr_t{4095}}) {
                           note_bad(fd, reinterpret_cast<void *>(at));
                         }
                         note("nothing at null", send(fd, nullptr, 0, 0));
                         char c;
                         note("without room", recv(fd, nullptr, 0, MSG_DONTWAIT));
                         note("discarded", recv(fd, nullptr, 2, MSG_TRUNC));
                         note_data("the rest", receive_exactly(fd, 3));
                         note("no more", recv(fd, &c, 1, MSG_DONTWAIT));
                         ask(fd, "after");
                       }};

// libaio's calls, by number: readiness is the kernel's, whoever asks.
Scenario polled{"legacy/io_submit-that-polls", echo, [](std::uint16_t port) {
                  int fd = dial(port);
                  send_all(fd, "hello");
                  aio_context_t context = 0;
                  note("io_setup", syscall(SYS_io_setup, 4, &context));
                  iocb request{};
                  request.aio_fildes = static_cast<std::uint32_t>(fd);
                  request.aio_lio_opcode = IOCB_CMD_POLL;
                  request.aio_buf = POLLIN;
                  iocb *requests[] = {&request, reinterpret_cast<iocb *>(8)};
                  note("io_submit", syscall(SYS_io_submit, context, 2, requests));
                  io_event event{};
                  note("io_getevents", syscall(SYS_io_getevents, context, 1, 1, &event, nullptr));
                  note("ready", event.res & POLLIN);
                  note("nothing", syscall(SYS_io_submit, context, 1, reinterpret_cast<iocb **>(8)));
                  note("too many", syscall(SYS_io_submit, context, -1L, requests));
                  note_data("hello", receive_exactly(fd, 5));
                }};

// A stream that has its file in memory ("m"), until its number is something else.
Scenario mapped{"legacy/mapped-stream-whose-number-becomes-a-connection-s",
                [](int listener) {
                  int fd = take(listener);
                  send_all(fd, "from the peer\n");
                  told();
                  send_all(fd, "and more\n");
                  note_rest(fd);
                },
                [](std::uint16_t port) {
                  char path[] = "/tmp/inlay-mapped-XXXXXX";
                  int file = mkstemp(path);
                  if (write(file, "one\ntwo\n", 8) != 8) _exit(1);
                  close(file);
                  int fd = dial(port);
                  FILE *streams[] = {std::fopen(path, "rm"), std::fopen(path, "rm")};
                  char line[64];
                  note("read before", std::fgets(line, sizeof line, streams[0]) != nullptr);
                  say("line", line);
                  for (FILE *stream : streams) {
                    note("dup2", dup2(fd, fileno(stream)) == fileno(stream));
                    for (int lines = stream == streams[0] ? 2 : 1; lines > 0; --lines) {
                      note("read", std::fgets(line, sizeof line, stream) != nullptr);
                      say("line", line);
                    }
                    note("close", std::fclose(stream));
                    if (stream == streams[0]) tell(0);
                  }
                  unlink(path);
                  send_all(fd, "good bye");
                }};

}  // namespace
