// Who shares an arena: a process, or one thread of it, named so that the name means the same to all
// of them. Process and thread numbers do not: in a PID namespace of its own a child may have its
// parent's, and knows the parent by none. And whether a participant still lives, seen from any
// namespace.
//
// Within one namespace kill() tells. Across them the memory itself does: every process that maps an
// arena holds a record lock (fcntl, F_SETLK) on a byte of its memfd that its name says. The kernel
// takes the lock away when the process ends, lets nobody inherit it, and tells all who have the
// memory. It also goes with any close() of a descriptor of the memory: Doubt covers the time until
// the process has it again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace inlay::shim {

//   63           45 44          23 22         1   0
//   | PID namespace | process     | thread     | mark |
// A process has thread 0. The lowest bit is free for who keeps the name: a lock's waiters, a holder
// that is being spawned. 0 is nobody.
using Participant = std::uint64_t;

inline constexpr Participant kMark = 1;
inline constexpr unsigned kThreadAt = 1, kProcessAt = 23, kNamespaceAt = 45;
inline constexpr std::uint64_t kNumberMask = 0x3fffff;  // PID_MAX_LIMIT is 2^22

constexpr Participant participant(std::uint64_t space, std::uint64_t process,
                                  std::uint64_t thread = 0) noexcept {
  return space << kNamespaceAt | (process & kNumberMask) << kProcessAt |
         (thread & kNumberMask) << kThreadAt;
}
constexpr std::uint64_t namespace_of(Participant who) noexcept { return who >> kNamespaceAt; }
constexpr std::uint32_t process_of(Participant who) noexcept {
  return static_cast<std::uint32_t>(who >> kProcessAt & kNumberMask);
}
constexpr std::uint32_t thread_of(Participant who) noexcept {
  return static_cast<std::uint32_t>(who >> kThreadAt & kNumberMask);
}

// The namespace this process is in, as the kernel numbers them; `otherwise` where /proc does not
// say.
std::uint64_t read_namespace(std::uint64_t otherwise) noexcept;
// One that no other process has, for the same case.
std::uint64_t unknown_namespace() noexcept;
// Whether the children of this process are in another one than itself, after unshare or setns.
bool children_are_elsewhere() noexcept;

// What is known of it. Who was killed, and whose parent has not waited for it yet, is gone.
enum class Life : std::uint8_t {
  gone,
  alive,
  unclear,  // of another user: it may be such a zombie
};
// `memory`: where it left its name.
Life life_of(const void *memory, Participant who) noexcept;
// False when it has certainly ended.
inline bool lives(const void *memory, Participant who) noexcept {
  return life_of(memory, who) != Life::gone;
}

// --- what makes others know that this process lives --------------------------------------------

struct SharedRegion {
  const void *begin = nullptr;
  std::size_t size = 0;
  int fd = -1;                                   // of the memory; -1: it has none
  std::atomic<std::uint32_t> *doubts = nullptr;  // in it: how many may look dead and are not
};

// The region of an arena of this process, by the arena's number; in place of the one before.
void vouch_in(unsigned arena, const SharedRegion &region) noexcept;
// In all regions again: in a forked child, or when a descriptor of one was closed.
void vouch() noexcept;

// While it exists nobody who shares memory with this process takes anybody in another namespace for
// dead. Ends with vouch().
class Doubt {
 public:
  Doubt() noexcept;
  ~Doubt();
  Doubt(const Doubt &) = delete;
  Doubt &operator=(const Doubt &) = delete;

 private:
  static void add(std::int32_t change) noexcept;
};

}  // namespace inlay::shim
