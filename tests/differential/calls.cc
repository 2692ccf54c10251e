// How many system calls a round trip takes: as many as without inlay, whatever the program's event
// loop does. Each costs more than the record it moves.
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <map>

#include "behaviour.h"

using namespace behaviour;

namespace {

constexpr int kRounds = 50;
constexpr long kMarker = -4711;  // no process group has this number

void mark() { syscall(SYS_getpgid, kMarker); }

// What reads and what writes may be done by any call of its family.
long family(long number) {
  switch (number) {
    case SYS_read:
    case SYS_recvmsg:
      return SYS_recvfrom;
    case SYS_write:
    case SYS_sendmsg:
      return SYS_sendto;
    default:
      return number;
  }
}

// Counts the system calls of the thread `child` between its first two marks.
void count(pid_t child) {
  std::map<long, long> calls;
  int marks = 0;
  int status = 0;
  while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
    long deliver = 0;
    if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
      __ptrace_syscall_info info{};
      ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info);
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        auto number = static_cast<long>(info.entry.nr);
        if (number == SYS_getpgid && static_cast<int>(info.entry.args[0]) == kMarker) {
          ++marks;
        } else if (marks == 1) {
          ++calls[family(number)];
        }
      }
    } else if (WSTOPSIG(status) != SIGSTOP) {
      deliver = WSTOPSIG(status);
    }
    ptrace(PTRACE_SYSCALL, child, 0, deliver);
  }
  note("marks", marks);
  for (auto [number, times] : calls) {
    char what[32];
    snprintf(what, sizeof(what), "system call %ld", number);
    note(what, times);
  }
}

// Runs `work` in a child whose system calls are counted.
template <typename Work>
void counted(Work work) {
  pid_t child = fork();
  if (child == 0) {
    call_myself("child");
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return note("stopped", 0);
  ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  ptrace(PTRACE_SYSCALL, child, 0, 0);
  count(child);
}

void wait_once(int epoll) {
  epoll_event event{};
  while (epoll_wait(epoll, &event, 1, -1) < 0 && errno == EINTR) {
  }
}

void change(int epoll, int operation, int fd, unsigned events) {
  epoll_event event{events, {.fd = fd}};
  epoll_ctl(epoll, operation, fd, &event);
}

// Handshake bytes may wake a waiting end for nothing: the rounds counted come after some that are
// not.
template <typename Round>
void rounds(int fd, Round round) {
  char buffer[512] = "x";
  for (int i = 0; i < 3; ++i) round(buffer);
  make_nonblocking(fd);
  mark();
  for (int i = 0; i < kRounds; ++i) round(buffer);
  mark();
}

void echo_all(std::uint16_t port) {
  int fd = dial(port);
  char buffer[512];
  for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
    send_all(fd, std::string_view(buffer, static_cast<std::size_t>(got)));
  }
}

// As redis does it: a descriptor is in the set for reading all the time.
Scenario steady{"calls/epoll-steady",
                [](int listener) {
                  counted([listener] {
                    int fd = take(listener);
                    int epoll = epoll_create1(0);
                    change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
                    rounds(fd, [&](char *buffer) {
                      send(fd, buffer, 1, 0);
                      wait_once(epoll);
                      recv(fd, buffer, 512, 0);
                    });
                  });
                },
                echo_all};

// As redis-benchmark does it: in and out of the set several times for each request.
Scenario busy{"calls/epoll-in-and-out",
              [](int listener) {
                counted([listener] {
                  int fd = take(listener);
                  int epoll = epoll_create1(0);
                  rounds(fd, [&](char *buffer) {
                    change(epoll, EPOLL_CTL_ADD, fd, EPOLLOUT);
                    wait_once(epoll);
                    write(fd, buffer, 1);
                    change(epoll, EPOLL_CTL_DEL, fd, 0);
                    change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
                    wait_once(epoll);
                    change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
                    read(fd, buffer, 512);
                    change(epoll, EPOLL_CTL_DEL, fd, 0);
                  });
                });
              },
              echo_all};

}  // namespace
