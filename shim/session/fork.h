// What boot and the process hooks tell sessions about the process itself.
#pragma once

namespace inlay::shim {

// pthread_atfork: prepare waits for the helpers' safe point; the child forgets what was private to
// its parent.
void session_before_fork() noexcept;
void session_after_fork_parent() noexcept;
void session_after_fork_child() noexcept;

// Around unshare and setns, which need a process with one thread: no helper runs in between.
void helper_park() noexcept;
void helper_unpark() noexcept;

}  // namespace inlay::shim
