#include "shim/session/elsewhere.h"

#include <fcntl.h>

#include <cstring>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/log.h"
#include "shim/boot/sandbox.h"
#include "shim/session/hand_over.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/proc.h"

namespace inlay::shim {
namespace {

// What the kernel calls a descriptor of an arena's memory (shared_memory.cc).
constexpr char kArenaLink[] = "/memfd:inlay-arena (deleted)";

// False where a link is longer, too.
bool reads_link(long folder, const char *path, char (&target)[64]) noexcept {
  long length = kernel::call(SYS_readlinkat, folder, kernel::word(path), kernel::word(target),
                             sizeof target - 1);
  if (length < 0 || length == sizeof target - 1) return false;
  target[length] = '\0';
  return true;
}

// Old kernels number the cookies of each network namespace apart.
bool has_same_peer(const Slot &slot, int fd) noexcept {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  auto *generic = reinterpret_cast<sockaddr *>(&address);
  if (kernel::call(SYS_getpeername, fd, kernel::word(generic), kernel::word(&length)) != 0) {
    return true;  // ended
  }
  auto there = policy::Endpoint::from_sockaddr(generic, length);
  return there && there->port == slot.remote.port;
}

Slot *join(ArenaDescriptor arena, std::uint64_t cookie, int fd) noexcept {
  Slot *slot = join_arena(arena, cookie, fd);
  if (slot == nullptr) return nullptr;
  bool good = is_sound(*slot) && has_same_peer(*slot, fd);
  if (!join_living(*slot, fd, good ? cookie : 0)) return nullptr;
  boot::log_own_id_if_none(own_id_in_arena(arena_of(*slot)));
  return slot;
}

Slot *search(std::uint32_t process, std::uint64_t cookie, int fd) noexcept {
  ProcPath path;
  path.before("/fd").before(process).before("/proc/");
  long folder = kernel::call(SYS_openat, AT_FDCWD, kernel::word(path.text()),
                             O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return nullptr;
  Slot *found = nullptr;
  for_each_number(static_cast<int>(folder), [&](std::uint32_t number) {
    ProcPath name;
    name.before(number);
    char target[64];
    if (!reads_link(folder, name.text(), target) || std::strcmp(target, kArenaLink) != 0) {
      return true;
    }
    // Another description of the same memory. Its owner may have put something else there by now:
    // opening that must neither wait nor take hold of a terminal.
    long memory = kernel::call(SYS_openat, folder, kernel::word(name.text()),
                               O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (memory < 0) return true;
    std::uint64_t inode = 0;
    if (!is_arena_with(static_cast<int>(memory), cookie, &inode) || is_mapped_arena(inode)) {
      Doubt doubt;  // it may be an arena of this process
      kernel::close(static_cast<int>(memory));
      return true;
    }
    found = join({static_cast<int>(memory), inode}, cookie, fd);
    return found == nullptr;
  });
  kernel::close(static_cast<int>(folder));
  return found;
}

// Under a seccomp filter of the program's own no new kind of system call is safe.
std::uint64_t cookie_to_find(int fd) noexcept {
  return boot::sandboxed() || in_foreign_process() ? 0 : cookie_of(fd);
}

}  // namespace

Slot *join_known(std::uint64_t cookie, int fd) noexcept {
  Slot *slot = arena_count() == 0 ? nullptr : claim_slot(cookie, fd);
  if (slot == nullptr) return nullptr;
  // Another process that has it may be ending it just now.
  const bool sound = !is_foreign_arena(arena_of(*slot)) || is_sound(*slot);
  return join_living(*slot, fd, sound ? cookie : 0) ? slot : nullptr;
}

Slot *join_from(std::uint32_t process, int fd) noexcept {
  std::uint64_t cookie = cookie_to_find(fd);
  if (cookie == 0 || process == 0 || process == process_id()) return nullptr;
  return search(process, cookie, fd);
}

Slot *join_from_anywhere(int fd) noexcept {
  std::uint64_t cookie = cookie_to_find(fd);
  if (cookie == 0) return nullptr;
  auto parent = static_cast<std::uint32_t>(kernel::call(SYS_getppid));
  if (Slot *found = parent == 0 ? nullptr : search(parent, cookie, fd)) return found;
  constexpr const char kFolder[] = "/proc";
  long folder =
      kernel::call(SYS_openat, AT_FDCWD, kernel::word(kFolder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return nullptr;
  Slot *found = nullptr;
  for_each_number(static_cast<int>(folder), [&](std::uint32_t process) {
    if (process != parent && process != process_id()) found = search(process, cookie, fd);
    return found == nullptr;
  });
  kernel::close(static_cast<int>(folder));
  return found;
}

}  // namespace inlay::shim
