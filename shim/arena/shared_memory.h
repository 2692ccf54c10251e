// The memory of an arena: a memfd mapped MAP_SHARED. fork shares the mapping; exec needs the
// descriptor. It is sealed against any change of its size, so that nobody who gets hold of it can
// make a touch of the mapping fatal.
#pragma once

#include <cstddef>
#include <cstdint>

namespace inlay::shim {

struct SharedMemory {
  std::byte *base = nullptr;  // null: there is no memory
  int fd = -1;                // inlay's own; -1: anonymous, such memory ends with exec
  std::uint64_t inode = 0;
};

// Zeroed. `at`: replaces what is mapped there, `size` bytes; null for anywhere. Where the kernel, a
// seccomp filter or a limit refuses a memfd: anonymous, if it may be, or none.
SharedMemory make_shared_memory(std::size_t size, void *at, bool may_be_anonymous = true) noexcept;

// True when `fd` is such a memfd: inode, size, seals and the owner are right.
bool is_shared_memory(int fd, std::uint64_t inode, std::size_t size) noexcept;
// The same of memory whose inode is not known beforehand.
bool is_shared_memory(int fd, std::size_t size, std::uint64_t *inode) noexcept;

// Maps one that another process or image made; its descriptor becomes inlay's own. Without memory,
// and with `fd` as it was, when it is not one; with a descriptor all the same when there is no room
// for it. `at` as above.
SharedMemory map_inherited(int fd, std::uint64_t inode, std::size_t size,
                           void *at = nullptr) noexcept;

}  // namespace inlay::shim
