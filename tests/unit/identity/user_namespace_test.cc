#include "identity/user_namespace.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

using namespace inlay::identity;

namespace {

bool write_file(const char *path, const char *text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const auto length = static_cast<ssize_t>(std::strlen(text));
  const bool whole = write(fd, text, static_cast<std::size_t>(length)) == length;
  close(fd);
  return whole;
}

// What `ask` says in a child process in a user namespace that maps root alone; -1 where the system
// lets nobody make one.
template <typename Ask>
int in_namespace_of_root(Ask &&ask) {
  const pid_t child = fork();
  if (child == 0) {
    const uid_t user = geteuid();
    const gid_t group = getegid();
    char line[64];
    if (unshare(CLONE_NEWUSER) != 0) _exit(2);
    write_file("/proc/self/setgroups", "deny");
    snprintf(line, sizeof line, "0 %u 1", user);
    if (!write_file("/proc/self/uid_map", line)) _exit(2);
    snprintf(line, sizeof line, "0 %u 1", group);
    if (!write_file("/proc/self/gid_map", line)) _exit(2);
    _exit(ask() ? 1 : 0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status) == 2 ? -1 : WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("a map of all numbers is known from one of some") {
  CHECK(maps_everybody("         0          0 4294967295\n"));
  CHECK_FALSE(maps_everybody("         0     100000      65536\n"));
  CHECK_FALSE(maps_everybody("         0       1000          1\n"));
  CHECK_FALSE(maps_everybody("         0          0 4294967294\n"));
  CHECK_FALSE(maps_everybody("         1          1 4294967295\n"));
  CHECK_FALSE(maps_everybody("         0          1 4294967295\n"));
  CHECK_FALSE(maps_everybody(""));
  CHECK_FALSE(maps_everybody("0 0"));
}

TEST_CASE("the number of those without one may be anybody's, every other is one user's") {
  CHECK_FALSE(may_be_anybody(0));
  CHECK_FALSE(may_be_anybody(1000));
  const int nobody = in_namespace_of_root([] { return may_be_anybody(65534); });
  if (nobody < 0) {
    MESSAGE("no user namespaces here: not tried within one");
    return;
  }
  CHECK(nobody == 1);
  CHECK(in_namespace_of_root([] { return may_be_anybody(0); }) == 0);
  CHECK(in_namespace_of_root([] { return may_be_any_group(65534); }) == 1);
  CHECK(in_namespace_of_root([] { return may_be_any_group(0); }) == 0);
}
