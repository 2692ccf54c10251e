// How far the library has come up in this process.
//
//   unbound -> binding -> ready | inert
//
// The constructor goes all the way; a hook called before it (from another library's early code, or
// from the executable's .preinit_array) does the same on demand. While binding, and when inert,
// every hook passes through.
#pragma once

#include <atomic>
#include <cstdint>

namespace inlay::shim::boot {

enum class Level : std::uint8_t {
  unbound,
  binding,
  inert,  // INLAY_CONFIG is not set, or the process runs with more privilege than its caller
  ready,
};

extern std::atomic<Level> g_level;

// The slow path of active(): boots the library if nothing did yet.
bool activate() noexcept;

// True when hooks have work to do. Thread-safe, signal-safe once the constructor ran.
inline bool active() noexcept {
  return g_level.load(std::memory_order_acquire) == Level::ready || activate();
}

}  // namespace inlay::shim::boot
