#include "shim/session/socket_facts.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "shim/session/internal.h"

using namespace inlay::shim;

namespace {

// From now on each getsockopt() gives ENOBUFS.
bool forbid_questions() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getsockopt, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOBUFS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{static_cast<unsigned short>(std::size(filter)), filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

struct Connection {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  int made = socket(AF_INET, SOCK_STREAM, 0);
  int accepted = -1;

  Connection() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto *generic = reinterpret_cast<sockaddr *>(&address);
    REQUIRE(bind(listener, generic, length) == 0);
    REQUIRE(listen(listener, 1) == 0);
    REQUIRE(getsockname(listener, generic, &length) == 0);
    REQUIRE(connect(made, generic, length) == 0);
    accepted = accept(listener, nullptr, nullptr);
    REQUIRE(accepted >= 0);
  }
  ~Connection() {
    for (int fd : {listener, made, accepted}) close(fd);
  }
  Connection(const Connection &) = delete;
  Connection &operator=(const Connection &) = delete;
};

}  // namespace

TEST_CASE("what a socket is, is known from its address where the kernel does not say") {
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int pair[2], streams[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || pipe(streams) != 0) _exit(2);
    int tcp = socket(AF_INET, SOCK_STREAM, 0), tcp6 = socket(AF_INET6, SOCK_STREAM, 0);
    if (!forbid_questions()) _exit(3);
    if (socket_kind(pair[0]) != SocketKind::other) _exit(4);
    if (socket_kind(streams[0]) != SocketKind::other) _exit(5);
    if (socket_kind(tcp) != SocketKind::tcp) _exit(6);
    if (tcp6 >= 0 && socket_kind(tcp6) != SocketKind::tcp) _exit(7);
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE(
    "fresh is an accepted connection of which nothing was read, and never one made from here") {
  Connection connection;
  CHECK(is_fresh(connection.accepted));
  CHECK_FALSE(is_fresh(connection.made));
  REQUIRE(send(connection.made, "hello", 5, 0) == 5);
  char byte = 0;
  REQUIRE(recv(connection.accepted, &byte, 1, MSG_PEEK) == 1);
  CHECK(is_fresh(connection.accepted));
  CHECK_FALSE(is_fresh(connection.made));
  REQUIRE(recv(connection.accepted, &byte, 1, 0) == 1);
  CHECK_FALSE(is_fresh(connection.accepted));
}
