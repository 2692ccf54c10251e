#include "tools/containment.h"

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "policy/containment.h"

using namespace inlay;
using namespace inlay::tools;

namespace {

struct Call {
  const char *what;
  long number;
  long arguments[6];
  int error;  // 0: anything but the filter's own
};

constexpr long kTcp4[] = {AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0};
constexpr int kRefused = EACCES;

// In a child under the filter: the index of the first call that gave something else, -1 for none.
template <typename Make>
int first_wrong(const std::vector<Call> &calls, Make make) {
  int result[2];
  REQUIRE(::pipe(result) == 0);
  pid_t child = ::fork();
  if (child == 0) {
    int wrong = contain() && is_contained() ? -1 : -2;
    for (std::size_t i = 0; wrong == -1 && i < calls.size(); ++i) {
      long got = make(calls[i]);
      long wanted = -calls[i].error;
      bool own = got == -EACCES || got == -ENOSYS || got == -EAFNOSUPPORT || got == -EOPNOTSUPP;
      if (wanted == 0 ? own : got != wanted) wrong = static_cast<int>(i);
    }
    if (::write(result[1], &wrong, sizeof wrong) != sizeof wrong) ::_exit(1);
    ::_exit(0);
  }
  int wrong = -3;
  ::close(result[1]);
  if (::read(result[0], &wrong, sizeof wrong) != sizeof wrong) wrong = -3;
  ::close(result[0]);
  ::waitpid(child, nullptr, 0);
  return wrong;
}

void check(const std::vector<Call> &calls, long (*make)(const Call &)) {
  int wrong = first_wrong(calls, make);
  CAPTURE(wrong);
  if (wrong >= 0) FAIL_CHECK(calls[static_cast<std::size_t>(wrong)].what);
  CHECK(wrong == -1);
}

long elsewhere(const Call &call) {
  const long *a = call.arguments;
  long result = ::syscall(call.number, a[0], a[1], a[2], a[3], a[4], a[5]);
  return result < 0 ? -errno : result;
}

}  // namespace

TEST_CASE("the filter is short enough for its jumps and for the kernel") {
  CHECK(containment_filter().size() < 256);
}

TEST_CASE("this process is not contained before it asked for it") { CHECK_FALSE(is_contained()); }

TEST_CASE("system calls from anywhere: TCP sockets and what stands for them are refused") {
  check(
      {
          {"TCP", SYS_socket, {AF_INET, SOCK_STREAM, 0}, kRefused},
          {"TCP, flags", SYS_socket, {kTcp4[0], kTcp4[1], kTcp4[2]}, kRefused},
          {"TCP, high half set", SYS_socket, {AF_INET | 1L << 32, SOCK_STREAM, 0}, kRefused},
          {"TCP over IPv6", SYS_socket, {AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0}, kRefused},
          {"MPTCP", SYS_socket, {AF_INET, SOCK_STREAM, 262}, kRefused},
          {"SMC", SYS_socket, {43, SOCK_STREAM, 0}, EAFNOSUPPORT},
          {"UDP", SYS_socket, {AF_INET, SOCK_DGRAM, 0}, 0},
          {"UDP over IPv6", SYS_socket, {AF_INET6, SOCK_DGRAM, 0}, 0},
          {"Unix", SYS_socket, {AF_UNIX, SOCK_STREAM, 0}, 0},
          {"netlink", SYS_socket, {AF_NETLINK, SOCK_RAW, 0}, 0},
          {"connect", SYS_connect, {-1, 0, 0}, EBADF},
#ifdef SYS_accept
          {"accept", SYS_accept, {-1, 0, 0}, kRefused},
#endif
          {"accept4", SYS_accept4, {-1, 0, 0, 0}, kRefused},
          {"MSG_FASTOPEN", SYS_sendto, {-1, 0, 0, MSG_FASTOPEN | MSG_NOSIGNAL, 0, 0}, EOPNOTSUPP},
          {"sendmsg, MSG_FASTOPEN", SYS_sendmsg, {-1, 0, MSG_FASTOPEN}, EOPNOTSUPP},
          {"sendmmsg, MSG_FASTOPEN", SYS_sendmmsg, {-1, 0, 0, MSG_FASTOPEN}, EOPNOTSUPP},
          {"sendto", SYS_sendto, {-1, 0, 0, MSG_NOSIGNAL, 0, 0}, EBADF},
          {"sendmsg", SYS_sendmsg, {-1, 0, 0}, EBADF},
          {"TCP_FASTOPEN_CONNECT", SYS_setsockopt, {-1, IPPROTO_TCP, 30, 0, 0}, EOPNOTSUPP},
          {"TCP_NODELAY", SYS_setsockopt, {-1, IPPROTO_TCP, TCP_NODELAY, 0, 0}, EBADF},
          {"another level's 30", SYS_setsockopt, {-1, SOL_SOCKET, 30, 0, 0}, EBADF},
          {"io_uring_setup", 425, {1, 0}, ENOSYS},
          {"io_uring_enter", 426, {-1, 0}, ENOSYS},
          {"io_uring_register", 427, {-1, 0}, ENOSYS},
          {"getpid", SYS_getpid, {}, 0},
      },
      elsewhere);
}

#if defined(__x86_64__)
TEST_CASE("x32: no call at all") {
  constexpr long kX32 = 0x40000000;
  check({{"socket", kX32 | SYS_socket, {AF_INET, SOCK_STREAM, 0}, ENOSYS},
         {"getpid", kX32 | SYS_getpid, {}, ENOSYS}},
        elsewhere);
}

TEST_CASE("the same calls from the gate page are made") {
  constexpr unsigned char kGate[] = {0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x05, 0xc3};
  void *there = reinterpret_cast<void *>(std::uintptr_t{policy::kGateAddress});
  void *page = ::mmap(there, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  REQUIRE(page == there);
  std::memcpy(page, kGate, sizeof kGate);
  check({{"TCP", SYS_socket, {AF_INET, SOCK_STREAM, 0}, 0},
         {"TCP over IPv6", SYS_socket, {AF_INET6, SOCK_STREAM, 0}, 0},
         {"accept", SYS_accept, {-1, 0, 0}, EBADF},
         {"accept4", SYS_accept4, {-1, 0, 0}, EBADF},
         {"SMC", SYS_socket, {43, SOCK_STREAM, 0}, EAFNOSUPPORT},
         {"io_uring_setup", 425, {1, 0}, ENOSYS}},
        [](const Call &call) {
          long result;
          // Not below the stack pointer: a leaf function keeps its data there.
          asm volatile(
              "sub $128, %%rsp\n"
              "call *%[gate]\n"
              "add $128, %%rsp"
              : "=a"(result)
              : "a"(call.number), "D"(call.arguments[0]), "S"(call.arguments[1]),
                "d"(call.arguments[2]), [gate] "r"(std::uint64_t{policy::kGateAddress})
              : "rcx", "r11", "memory", "cc");
          return result;
        });
  ::munmap(page, 4096);
}

// A kernel without 32-bit programs ends the child.
TEST_CASE("32-bit system calls: no TCP socket, no accept") {
  int wrong = first_wrong({{"socketcall", 102, {1, 0}, kRefused},
                           {"socketcall accept", 102, {5, 0}, kRefused},
                           {"socketcall bind", 102, {2, 0}, EFAULT},
                           {"socket", 359, {AF_INET, SOCK_STREAM, 0}, kRefused},
                           {"socket, Unix", 359, {AF_UNIX, SOCK_STREAM, 0}, 0},
                           {"accept4", 364, {-1, 0, 0}, kRefused},
                           {"io_uring_setup", 425, {1, 0}, ENOSYS}},
                          [](const Call &call) {
                            long result;
                            asm volatile("int $0x80"
                                         : "=a"(result)
                                         : "a"(call.number), "b"(call.arguments[0]),
                                           "c"(call.arguments[1]), "d"(call.arguments[2])
                                         : "r8", "r9", "r10", "r11", "memory");
                            return static_cast<long>(static_cast<int>(result));
                          });
  CAPTURE(wrong);
  CHECK((wrong == -1 || wrong == -3));
}
#endif
