// The helper thread, as fork and the handshake see it.
#pragma once

#include <cstdint>

namespace inlay::shim {

std::int64_t monotonic_ns() noexcept;

// Whether the caller is inlay's own thread. No system call.
bool on_helper_thread() noexcept;

// fork waits for a point where the helper holds nothing and OpenSSL is idle.
void helper_before_fork() noexcept;
void helper_after_fork_parent() noexcept;
void helper_after_fork_child() noexcept;

}  // namespace inlay::shim
