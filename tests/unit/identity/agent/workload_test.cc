#include "identity/agent/workload.h"

#include <doctest/doctest.h>
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "child.h"
#include "tests/unit/policy/temporary_folder.h"

using namespace inlay::identity::agent;
using inlay::identity::agent::testing::Child;
using inlay::policy::sample::TemporaryFolder;

namespace {

Caller self() { return {.pid = getpid(), .uid = getuid(), .gid = getgid()}; }

std::string copy_of_sleep(const TemporaryFolder &folder, const std::string &name) {
  std::filesystem::copy_file("/usr/bin/sleep", folder / name);
  return folder / name;
}

}  // namespace

TEST_CASE("a process is what the kernel says of it") {
  auto found = examine(self());
  REQUIRE(found.has_value());
  CHECK(found->pid == getpid());
  CHECK(found->uid == geteuid());
  CHECK(found->gid == getegid());
  CHECK(found->start_time > 0);
  CHECK(found->start_time == start_time_of(getpid()));
  CHECK(found->executable == std::filesystem::read_symlink("/proc/self/exe").string());
  CHECK(found->executable_in_place);
  CHECK(found->executable_inode > 0);
  CHECK(found->tracer == 0);
}

TEST_CASE("a child that executes is another program of the same process") {
  TemporaryFolder folder;
  Child child([] {}, copy_of_sleep(folder, "program"));
  auto found = examine(child.caller(), child.pidfd());
  REQUIRE(found.has_value());
  CHECK(found->executable == folder / "program");
  CHECK(found->executable_in_place);
  CHECK(found->start_time == start_time_of(child.pid()));
}

TEST_CASE("a process that executes another program while it is looked at is neither (T61)") {
  TemporaryFolder folder;
  for (const char *name : {"one", "other"}) {
    std::filesystem::copy_file("/bin/dash", folder / name);
  }
  // Two programs that execute each other for ever.
  const std::string script = R"(exec "$1" -c "$0" "$0" "$2" "$1")";
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    execl((folder / "one").c_str(), "one", "-c", script.c_str(), script.c_str(),
          (folder / "other").c_str(), (folder / "one").c_str(), nullptr);
    _exit(127);
  }
  const Caller caller{.pid = pid, .uid = getuid(), .gid = getgid()};
  std::string why;
  for (int i = 0; i < 1'000'000 && why.find("executed") == why.npos; ++i) {
    const auto found = examine(caller);
    why = found ? "" : found.error();
  }
  CHECK(why == "it has executed another program since it asked");
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

TEST_CASE("a process that has ended is nobody, reaped or not (T61)") {
  Child child;
  REQUIRE(examine(child.caller(), child.pidfd()).has_value());
  child.kill_only();
  CHECK(examine(child.caller(), child.pidfd()).error() == "the process has ended");
  CHECK(start_time_of(child.pid()) == 0);
  child.end();
  CHECK(examine(child.caller(), child.pidfd()).error() == "the process has ended");
}

TEST_CASE("a pid that another process has by now is not the caller's (T61)") {
  Child caller, other;
  caller.end();
  // What the agent would meet had `other` got the number: the pidfd is of the one that asked.
  CHECK(examine(other.caller(), caller.pidfd()).error() == "the process has ended");
}

TEST_CASE("an agent in a user namespace does not take one that it cannot name for nobody") {
  Child stranger([] { CHECK(setresuid(4242, 4242, 4242) == 0); });
  TemporaryFolder folder;
  const std::string answer = folder / "answer";
  // What an agent there is told of it, which maps root alone.
  Child agent([&] {
    if (unshare(CLONE_NEWUSER) != 0) return;
    std::ofstream("/proc/self/uid_map") << "0 0 1";
    const auto found = examine_any(stranger.pid());
    std::ofstream(answer) << (found ? std::to_string(found->uid) : found.error());
  });
  std::ifstream file(answer);
  if (!file) {
    MESSAGE("no user namespaces here: not tried");
    return;
  }
  std::string text;
  std::getline(file, text);
  CHECK(text == "its user or group has no number of its own in the agent's user namespace");
}

TEST_CASE("credentials must be the process's own") {
  Child child;
  Caller caller = child.caller();
  caller.uid = 4242;
  CHECK(examine(caller).error() == "it has changed its user since it asked");
  CHECK(examine({.pid = 0, .uid = getuid(), .gid = getgid()}).error() ==
        "the process is in a PID namespace the agent cannot see");
  CHECK_FALSE(examine({.pid = -1, .uid = getuid(), .gid = getgid()}).has_value());
}

TEST_CASE("a process's own name cannot pretend anything") {
  Child child([] { prctl(PR_SET_NAME, ") Z 1 1 1 1"); });
  auto found = examine(child.caller());
  REQUIRE(found.has_value());
  CHECK(found->start_time == start_time_of(child.pid()));
  CHECK(found->start_time > 1);
}

TEST_CASE("a tracer is seen") {
  Child child;
  REQUIRE(ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr) == 0);
  CHECK(examine(child.caller())->tracer == getpid());
  REQUIRE(kill(child.pid(), SIGSTOP) == 0);
  waitpid(child.pid(), nullptr, 0);
  REQUIRE(ptrace(PTRACE_DETACH, child.pid(), nullptr, nullptr) == 0);
  CHECK(examine(child.caller())->tracer == 0);
}

TEST_CASE("supplementary groups are seen") {
  if (geteuid() != 0) return;
  Child child([] {
    const gid_t groups[] = {4241, 4242};
    if (setgroups(2, groups) != 0 || setresgid(4243, 4244, 4245) != 0) _exit(1);
  });
  auto found = examine(child.caller());
  REQUIRE(found.has_value());
  CHECK(found->groups == std::vector<gid_t>{4241, 4242});
  CHECK(found->gid == 4244);
}

TEST_CASE("the effective user counts, whichever of its three a process names") {
  if (geteuid() != 0) return;
  Child child([] {
    if (setresuid(4241, 4242, 4243) != 0) _exit(1);
  });
  for (uid_t uid : {4241u, 4242u, 4243u}) {
    auto found = examine({.pid = child.pid(), .uid = uid});
    REQUIRE(found.has_value());
    CHECK(found->uid == 4242);
  }
  CHECK_FALSE(examine({.pid = child.pid(), .uid = 0}).has_value());
}

TEST_CASE("an executable's path counts only where the agent sees the same file there") {
  TemporaryFolder folder;
  std::string program = copy_of_sleep(folder, "program");
  SUBCASE("deleted") {
    Child child([] {}, program);
    std::filesystem::remove(program);
    CHECK_FALSE(examine(child.caller())->executable_in_place);
  }
  SUBCASE("replaced") {
    Child child([] {}, program);
    std::filesystem::rename(copy_of_sleep(folder, "newer"), program);
    CHECK_FALSE(examine(child.caller())->executable_in_place);
  }
  SUBCASE("in a mount namespace of its own") {
    std::string other = copy_of_sleep(folder, "other");
    // Where this may not be, there is nothing to defend against.
    bool mounted = true;
    {
      Child trial([&] {
        if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0 ||
            mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            mount(other.c_str(), program.c_str(), nullptr, MS_BIND, nullptr) != 0) {
          _exit(1);
        }
      });
      mounted = start_time_of(trial.pid()) != 0;
    }
    if (!mounted) return;
    Child child(
        [&] {
          if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0 ||
              mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
              mount(other.c_str(), program.c_str(), nullptr, MS_BIND, nullptr) != 0) {
            _exit(1);
          }
        },
        program);
    auto found = examine(child.caller());
    REQUIRE(found.has_value());
    CHECK(found->executable == program);
    CHECK_FALSE(found->executable_in_place);
  }
}

TEST_CASE("the unit is the outermost one: users name what is below theirs") {
  struct Row {
    const char *cgroup, *unit;
  } rows[] = {
      {"/system.slice/redis.service", "redis.service"},
      {"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"},
      {"/system.slice/redis.service/payload", "redis.service"},
      {"/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service",
       "user@1000.service"},
      {"/user.slice/user-1000.slice/user@1000.service/system.slice/redis.service",
       "user@1000.service"},
      {"/user.slice/user-1000.slice/session-2.scope", "session-2.scope"},
      {"/init.scope", "init.scope"},
      {"/system.slice/_cpu.service", "cpu.service"},
      {"/docker/0123/redis.service", ""},
      {"/system.slice", ""},
      {"/.service", ""},
      {"/", ""},
      {"", ""},
      {"system.slice/redis.service", ""},
      {"/../redis.service", ""},
      {"/../../system.slice/redis.service", ""},
      {"//redis.service", ""},
  };
  for (const Row &row : rows) {
    INFO(row.cgroup);
    CHECK(unit_of_cgroup(row.cgroup) == row.unit);
  }
}
