#include "shim/boot/sandbox_filter.h"

#include <doctest/doctest.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

using inlay::shim::boot::allows_reading_and_writing;
using inlay::shim::boot::kAheadLimit;
using inlay::shim::boot::write_ahead;

namespace {

constexpr std::uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS;
constexpr std::uint16_t kEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr std::uint16_t kReturn = BPF_RET | BPF_K;

// Allows these calls; anything else ends the process, as in OpenSSH's sandbox.
std::vector<sock_filter> only(std::initializer_list<long> calls) {
  std::vector<sock_filter> filter{{kLoad, 0, 0, offsetof(seccomp_data, nr)}};
  for (long call : calls) {
    filter.push_back({kEqual, 0, 1, static_cast<std::uint32_t>(call)});
    filter.push_back({kReturn, 0, 0, SECCOMP_RET_ALLOW});
  }
  filter.push_back({kReturn, 0, 0, SECCOMP_RET_KILL_PROCESS});
  return filter;
}

std::vector<sock_filter> widened(const std::vector<sock_filter> &filter) {
  std::vector<sock_filter> all(kAheadLimit);
  all.resize(write_ahead(filter, std::span<sock_filter, kAheadLimit>(all)));
  all.insert(all.end(), filter.begin(), filter.end());
  return all;
}

// What becomes of a process that makes the call under the filter: its exit status, or minus the
// signal.
template <typename Call>
int outcome(std::vector<sock_filter> filter, Call call) {
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  pid_t child = fork();
  if (child == 0) {
    sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
      _exit(99);
    }
    syscall(SYS_exit_group, call(pair) ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  close(pair[0]);
  close(pair[1]);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

const auto kTight = only({SYS_read, SYS_write, SYS_exit_group});

bool exchange(int *pair) {
  char byte = 0;
  return send(pair[0], "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 &&
         recv(pair[1], &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1 && byte == 'x';
}

}  // namespace

TEST_CASE("a filter that knows read and write only lets a managed connection's calls through") {
  CHECK(outcome(kTight, exchange) == -SIGSYS);
  CHECK(outcome(widened(kTight), exchange) == 0);
  CHECK(outcome(widened(kTight), [](int *pair) {
          int type = 0;
          socklen_t length = sizeof(type);
          return getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
                 type == SOCK_STREAM;
        }) == 0);
  CHECK(outcome(widened(kTight), [](int *pair) {
          pollfd one{pair[0], POLLOUT, 0};
          return syscall(SYS_ppoll, &one, 1, nullptr, nullptr, 0) == 1;
        }) == 0);
  CHECK(outcome(widened(kTight), [](int *) {
          int word = 0;
          return syscall(SYS_futex, &word, FUTEX_WAIT, 1, nullptr) == -1 && errno == EAGAIN &&
                 syscall(SYS_futex, &word, FUTEX_WAKE, 1) == 0;
        }) == 0);
}

TEST_CASE("it lets nothing through that does more") {
  auto filter = widened(kTight);
  CHECK(outcome(filter, [](int *pair) {
          sockaddr_in to{};
          to.sin_family = AF_INET;
          return sendto(pair[0], "x", 1, 0, reinterpret_cast<sockaddr *>(&to), sizeof(to)) >= 0;
        }) == -SIGSYS);
  CHECK(outcome(filter, [](int *pair) {
          sockaddr_in from{};
          socklen_t length = sizeof(from);
          char byte;
          return recvfrom(pair[0], &byte, 1, MSG_DONTWAIT, reinterpret_cast<sockaddr *>(&from),
                          &length) >= 0;
        }) == -SIGSYS);
  CHECK(outcome(filter, [](int *) { return socket(AF_INET, SOCK_STREAM, 0) >= 0; }) == -SIGSYS);
  CHECK(outcome(filter, [](int *) { return kill(getppid(), SIGCONT) == 0; }) == -SIGSYS);
  CHECK(outcome(filter, [](int *pair) {
          sigset_t none{};
          pollfd one{pair[0], POLLOUT, 0};
          return syscall(SYS_ppoll, &one, 1, nullptr, &none, 8) == 1;
        }) == -SIGSYS);
  // Not as write and read: urgent data, pinned memory, the error queue.
  for (int flags : {MSG_OOB, MSG_ZEROCOPY, MSG_FASTOPEN, MSG_CONFIRM}) {
    CAPTURE(flags);
    CHECK(outcome(filter, [flags](int *pair) { return send(pair[0], "x", 1, flags) >= 0; }) ==
          -SIGSYS);
  }
  for (int flags : {MSG_OOB, MSG_ERRQUEUE}) {
    CAPTURE(flags);
    CHECK(outcome(filter, [flags](int *pair) {
            char byte;
            return recv(pair[0], &byte, 1, flags | MSG_DONTWAIT) >= 0;
          }) == -SIGSYS);
  }
  // A question that makes a descriptor, and one of another level.
  constexpr int kPeerPidfd = 77;  // SO_PEERPIDFD
  for (auto [level, name] : {std::pair{SOL_SOCKET, kPeerPidfd}, {IPPROTO_IP, IP_TTL}}) {
    CAPTURE(name);
    CHECK(outcome(filter, [level, name](int *pair) {
            int value = 0;
            socklen_t length = sizeof(value);
            return getsockopt(pair[0], level, name, &value, &length) == 0;
          }) == -SIGSYS);
  }
  // The kernel's more intricate locks have been the way out of sandboxes.
  for (int call : {FUTEX_LOCK_PI, FUTEX_CMP_REQUEUE_PI, FUTEX_WAIT_REQUEUE_PI, FUTEX_REQUEUE,
                   FUTEX_WAIT | FUTEX_CLOCK_REALTIME}) {
    CAPTURE(call);
    CHECK(outcome(filter, [call](int *) {
            int word = 0;
            return syscall(SYS_futex, &word, call, 1, nullptr, nullptr, 0) >= 0;
          }) == -SIGSYS);
  }
}

TEST_CASE("a call the filter leaves to a tracer or a supervisor stays theirs") {
  // Without a tracer SECCOMP_RET_TRACE is ENOSYS.
  auto filter = kTight;
  filter.insert(filter.end() - 1,
                {{kEqual, 0, 1, SYS_getsockname}, {kReturn, 0, 0, SECCOMP_RET_TRACE}});
  auto ask = [](int *pair) {
    sockaddr_un name{};
    socklen_t length = sizeof(name);
    return getsockname(pair[0], reinterpret_cast<sockaddr *>(&name), &length) == -1 &&
           errno == ENOSYS;
  };
  CHECK(outcome(filter, ask) == 0);
  CHECK(outcome(widened(filter), ask) == 0);
  CHECK(outcome(widened(filter), exchange) == 0);
  // By the arguments: only what the other calls need goes in front.
  auto by_argument = kTight;
  by_argument.insert(by_argument.end() - 1, {{kEqual, 0, 3, SYS_getsockname},
                                             {kLoad, 0, 0, offsetof(seccomp_data, args)},
                                             {kEqual, 1, 0, 0xffff},
                                             {kReturn, 0, 0, SECCOMP_RET_TRACE}});
  CHECK(outcome(widened(by_argument), ask) == 0);
  CHECK(outcome(widened(by_argument), exchange) == 0);
}

TEST_CASE("a filter is only widened when it allows read and write whatever their arguments") {
  CHECK(allows_reading_and_writing(kTight));
  CHECK_FALSE(allows_reading_and_writing(only({SYS_read, SYS_exit_group})));
  CHECK_FALSE(allows_reading_and_writing(only({SYS_write, SYS_exit_group})));
  // read of descriptor 0 alone.
  std::vector<sock_filter> zero{
      {kLoad, 0, 0, offsetof(seccomp_data, nr)},   {kEqual, 0, 3, SYS_read},
      {kLoad, 0, 0, offsetof(seccomp_data, args)}, {kEqual, 0, 1, 0},
      {kReturn, 0, 0, SECCOMP_RET_ALLOW},          {kReturn, 0, 0, SECCOMP_RET_ERRNO | 1}};
  CHECK_FALSE(allows_reading_and_writing(zero));
  // Another machine's numbers mean other calls.
  std::vector<sock_filter> foreign = kTight;
  foreign.insert(foreign.begin(), {{kLoad, 0, 0, offsetof(seccomp_data, arch)},
                                   {kEqual, 1, 0, 0x40000003},
                                   {kReturn, 0, 0, SECCOMP_RET_KILL_PROCESS}});
  CHECK_FALSE(allows_reading_and_writing(foreign));
  // No end, or one that depends on more than the number.
  CHECK_FALSE(allows_reading_and_writing({}));
  CHECK_FALSE(allows_reading_and_writing(std::vector<sock_filter>{{BPF_RET | BPF_A, 0, 0, 0}}));
}
