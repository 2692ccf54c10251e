// What lies where in an arena's memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shim/arena/arena.h"
#include "shim/arena/lock.h"

namespace inlay::shim {

// What the shared mapping begins with. The first four must match for a process to take over an
// arena that another build of inlay may have made.
struct Header {
  std::atomic<std::uint32_t> magic;  // set last: before, there is no arena yet
  std::uint32_t version;
  std::uint32_t slot_size;
  std::uint32_t uid;          // effective, of the process that made it
  SharedLock lock;            // guards the free lists
  std::atomic<bool> closed;   // to new slots
  std::atomic<bool> adopted;  // mapped by a process of another tree: slots are used once
  std::atomic<std::uint32_t> high_water;  // slots ever used
  std::atomic<std::uint32_t> doubts;      // SharedRegion::doubts
  std::uint32_t free_slot;                // list of slots used before, kNoChunk ends it
  std::uint32_t free_chunk;
  std::uint32_t chunk_high_water;
  std::uint32_t early_chunks;  // in use
  char own_id[256];            // of the process, for the log of the image that inherits
};

std::uint32_t effective_uid() noexcept;
// Also that it is of this process's effective user.
bool is_of_this_build(const Header &header) noexcept;

inline constexpr std::size_t kPage = 4096;
constexpr std::size_t round_up(std::size_t bytes) { return (bytes + kPage - 1) & ~(kPage - 1); }

inline constexpr std::size_t kCookiesAt = round_up(sizeof(Header));
inline constexpr std::size_t kSlotsAt =
    kCookiesAt + round_up(kSlotsPerArena * sizeof(std::uint64_t));
inline constexpr std::size_t kChunksAt = kSlotsAt + round_up(kSlotsPerArena * sizeof(Slot));
inline constexpr std::size_t kArenaSize = kChunksAt + std::size_t{kChunksPerArena} * kChunkSize;

}  // namespace inlay::shim
