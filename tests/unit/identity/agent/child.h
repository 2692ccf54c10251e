// Real processes for tests of what the agent sees of them.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "identity/agent/workload.h"

namespace inlay::identity::agent::testing {

// A child that has done `prepare` when the constructor returns; then it waits to be killed, or has
// executed `program`, which gets "1000" as its argument (a copy of sleep).
class Child {
 public:
  explicit Child(
      const std::function<void()> &prepare = [] {}, const std::string &program = "") {
    int ready[2];
    REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      prepare();
      // By exec, or by hand, the pipe closes and says so.
      if (!program.empty()) {
        execl(program.c_str(), program.c_str(), "1000", nullptr);
        _exit(127);
      }
      close(ready[0]);
      close(ready[1]);
      for (;;) pause();
    }
    close(ready[1]);
    char byte;
    CHECK(read(ready[0], &byte, 1) == 0);
    close(ready[0]);
    pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  }
  ~Child() {
    end();
    if (pidfd_ >= 0) close(pidfd_);
  }
  Child(const Child &) = delete;
  Child &operator=(const Child &) = delete;

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_; }
  Caller caller() const { return {.pid = pid_, .uid = getuid(), .gid = getgid()}; }

  // Dead, but still in the process table.
  void kill_only() const {
    ::kill(pid_, SIGKILL);
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }
  void end() {
    if (ended_) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    ended_ = true;
  }

 private:
  pid_t pid_ = -1;
  int pidfd_ = -1;
  bool ended_ = false;
};

}  // namespace inlay::identity::agent::testing
