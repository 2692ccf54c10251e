#include "shim/session/fork.h"

namespace inlay::shim {

[[gnu::weak]] void session_before_fork() noexcept {}
[[gnu::weak]] void session_after_fork_parent() noexcept {}
[[gnu::weak]] void session_after_fork_child() noexcept {}
[[gnu::weak]] void helper_park() noexcept {}
[[gnu::weak]] void helper_unpark() noexcept {}

}  // namespace inlay::shim
