// INLAY_ARENA: how an image that is executed learns of the arenas its descriptors' sessions live
// in, and of the connections themselves.
//
//     [FD:INODE[,FD:INODE...]];TOKEN;FD:INODE:COUNT
//
// TOKEN is what posix_spawn() put among the holders of the sessions in place of a process number it
// did not know yet; 0 where there is none. Behind it is the socket the connections come in, and
// how many (session/parcel.h); 0:0:0 where there is none.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shim/arena/arena.h"

namespace inlay::shim {

inline constexpr unsigned kMaxInherited = 32;  // sessions of further arenas are refused
inline constexpr const char kArenaVariable[] = "INLAY_ARENA=";

struct ParcelDescriptor {
  int fd = -1;
  std::uint64_t inode = 0;
  std::uint64_t count = 0;  // of connections
};

struct Inheritance {
  unsigned count = 0;
  ArenaDescriptor arenas[kMaxInherited] = {};
  Participant token = 0;
  ParcelDescriptor parcel;

  bool is_empty() const noexcept { return count == 0 && parcel.fd < 0; }
};

// Room for the variable at its longest, null included.
inline constexpr std::size_t kInheritanceSize =
    sizeof kArenaVariable + kMaxInherited * 33 + 22 + 54;

// Writes "INLAY_ARENA=...", null-terminated.
void format_inheritance(const Inheritance &inheritance, char (&text)[kInheritanceSize]) noexcept;
// Of the variable's value. Empty when it is not exactly that.
Inheritance parse_inheritance(const char *value) noexcept;

}  // namespace inlay::shim
