// What boot and the process hooks tell sessions about the process itself.
#pragma once

namespace inlay::shim {

// pthread_atfork: prepare waits for the helpers' safe point; the child forgets what was private to
// its parent.
void session_begin() noexcept;
void session_before_fork() noexcept;
void session_after_fork_parent() noexcept;
void session_after_fork_child() noexcept;

// A child that was made past both, by _Fork() or a system call of the program's own: what can still be
// done about it is done when it first uses a session. Costs two loads.
void follow_fork() noexcept;

// A helper that is there from now on, and its link to the agent: the process is about to lose what it
// takes to have them. Nothing when it may not be started.
void keep_helper() noexcept;
bool has_sockets() noexcept;
// Before the program installs a seccomp filter, under which a new thread may be the end of it.
void before_filter() noexcept;

// Around unshare and setns: some need a process with one thread, and after those that put children
// into another PID namespace the kernel makes no thread any more. `spaces`: the CLONE_... flags.
class HelperAside {
 public:
  HelperAside(int spaces, bool needs_one_thread) noexcept;
  ~HelperAside();
  HelperAside(const HelperAside &) = delete;
  HelperAside &operator=(const HelperAside &) = delete;

 private:
  bool parked_;
};

}  // namespace inlay::shim
