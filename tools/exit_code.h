// Exit codes of `inlay run`, as env(1), nice(1) and chroot(1) use them; the command's own code
// otherwise.
#pragma once

namespace inlay::tools {

inline constexpr int kExitInlayFailed = 125;    // inlay itself: usage, configuration, identity
inline constexpr int kExitCannotExecute = 126;  // found, but cannot be executed or protected
inline constexpr int kExitNotFound = 127;       // no such command

// The other commands.
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

}  // namespace inlay::tools
