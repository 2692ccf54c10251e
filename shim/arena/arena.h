// The shared memory sessions live in: slots, found by SO_COOKIE, and a pool of chunks for bytes that
// wait. A memfd mapped MAP_SHARED, so that it survives fork without a descriptor and exec with one.
//
// fork closes an arena to new slots on both sides: processes share only the sessions that existed
// when one was forked from the other, or executed by it. New sessions then go to a new arena, or to
// one whose sessions this process has all given up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "shim/arena/slot.h"

namespace inlay::shim {

inline constexpr std::uint32_t kArenaMagic = 0x4e4c4159;  // "NLAY"
inline constexpr std::uint32_t kArenaVersion = 7;  // of the layout of Header, Slot and Chunk
inline constexpr std::uint32_t kSlotsPerArena = 2048;
inline constexpr unsigned kMaxArenas = 128;  // mapped by one process at a time
inline constexpr std::uint32_t kChunkSize = 20480;
// No session that is up ever finds the pool empty: each may have a tail of as many records as one call
// seals (kScratchRecords) and the head of one that arrives. Data written before the handshake is over
// has a part of its own, 16 MiB, and waits when that is used up.
inline constexpr std::uint32_t kChunksPerSlot = 5;
inline constexpr std::uint32_t kEarlyChunks = 820;
inline constexpr std::uint32_t kChunksPerArena = kSlotsPerArena * kChunksPerSlot + kEarlyChunks;

struct Chunk {
  std::uint32_t next;
  std::uint32_t begin;  // of the bytes still waiting
  std::uint32_t end;
  std::uint32_t early;  // 1 when it counts among kEarlyChunks
  std::uint8_t bytes[kChunkSize - 16];
};
inline constexpr std::size_t kChunkBytes = sizeof(Chunk::bytes);

// Process-private companions of a slot, wiped in forked children. Defined in session/local.h.
struct Local;

// --- slots --------------------------------------------------------------------------------------

// A fresh slot for the connection with this cookie, state as given. Null when there is no room.
// Creates the process's arena on first use, and another when all are full.
Slot *allocate_slot(std::uint64_t cookie, State state) noexcept;
// Ends the slot's use: its chunks go back, its generation grows. The caller was its last holder.
void free_slot(Slot &slot) noexcept;
// The slot of the connection with this cookie in any arena this process maps, or null.
Slot *find_slot(std::uint64_t cookie) noexcept;
Local &local(Slot &slot) noexcept;
// Every slot in use, in all arenas: for fork, exit and policy changes.
template <typename F>
void for_each_slot(F &&visit) noexcept;

// How much of the process's address space inlay has mapped, and may map before long.
std::size_t address_space_needed() noexcept;

// fork happened: no new slots in the arenas that existed. Called on both sides.
void close_arenas() noexcept;

// --- exec ---------------------------------------------------------------------------------------

struct ArenaDescriptor {
  int fd;
  std::uint64_t inode;
};

// Its number among the arenas of this process.
unsigned arena_of(const Slot &slot) noexcept;
// The memfd of an arena that may be given to another image; fd is -1 when there is none, or when
// this process has another uid now.
ArenaDescriptor arena_descriptor(unsigned arena) noexcept;
bool is_arena_descriptor(int fd) noexcept;
void close_arena(unsigned arena) noexcept;
// Another image is about to map it and say that it lives (participant.h): until it has, or will not.
// adopt_arena() settles what the image before raised.
void raise_doubt(unsigned arena) noexcept;
void settle_doubt(unsigned arena) noexcept;
// This process's SPIFFE ID, for images that inherit an arena and never load an identity; "" unknown.
void note_own_id(std::string_view id) noexcept;
std::string_view own_id_in_arena(unsigned arena) noexcept;
// In the new image, before any other thread: maps an arena of the image before, and makes the
// descriptor inlay's own. False when it is not an arena of this build and this uid; a descriptor that
// does not name such memory is left alone.
bool adopt_arena(ArenaDescriptor descriptor) noexcept;

// --- arenas of other process trees --------------------------------------------------------------

// A connection that comes in a message may belong to a session in the arena of a process that shares
// none with this one. Its arena is mapped then: for the sessions in it that this process has
// descriptors of, not for new ones. Slots of such an arena are used once.

// What `fd` names is the memory of an arena of this build and this uid, and one of its sessions has
// the cookie. Trusts nothing in it, maps nothing. `inode` is the memory's.
bool is_arena_with(int fd, std::uint64_t cookie, std::uint64_t *inode) noexcept;
// Whether this process has mapped it already.
bool is_mapped_arena(std::uint64_t inode) noexcept;
// Maps it, and claims the slot for the descriptor `fd`, as below. Takes the arena's descriptor. Null
// when that cannot be, or the session has ended meanwhile.
Slot *join_arena(ArenaDescriptor arena, std::uint64_t cookie, int fd) noexcept;
// find_slot() for a new descriptor: until it is joined or disclaimed, the slot's arena stays.
Slot *claim_slot(std::uint64_t cookie, int fd) noexcept;
bool is_foreign_arena(unsigned arena) noexcept;
// What another process wrote into the slot can be worked with: no number leads out of it.
bool is_sound(const Slot &slot) noexcept;

// --- chunks -------------------------------------------------------------------------------------

// A chunk from the slot's arena, or kNoChunk when the pool is used up. `early`: of the part for early
// data.
std::uint32_t take_chunk(Slot &slot, bool early = false) noexcept;
void return_chunk(Slot &slot, std::uint32_t chunk) noexcept;
Chunk &chunk_at(Slot &slot, std::uint32_t chunk) noexcept;

// Queues. The caller holds the lock that guards the queue.
// Appends up to `length` bytes; returns how many found room.
std::size_t queue_append(Slot &slot, Queue &queue, const std::uint8_t *bytes,
                         std::size_t length) noexcept;
// The oldest contiguous bytes; empty when the queue is.
std::span<std::uint8_t> queue_front(Slot &slot, Queue &queue) noexcept;
void queue_pop(Slot &slot, Queue &queue, std::size_t length) noexcept;
void queue_clear(Slot &slot, Queue &queue) noexcept;

// --- implementation of for_each_slot ------------------------------------------------------------

unsigned arena_count() noexcept;
std::uint32_t arena_high_water(unsigned arena) noexcept;
Slot *arena_slot(unsigned arena, std::uint32_t index) noexcept;

template <typename F>
void for_each_slot(F &&visit) noexcept {
  for (unsigned arena = 0; arena < arena_count(); ++arena) {
    for (std::uint32_t index = 0; index < arena_high_water(arena); ++index) {
      Slot *slot = arena_slot(arena, index);
      if (slot != nullptr && slot->cookie.load(std::memory_order_acquire) != 0) visit(*slot);
    }
  }
}

}  // namespace inlay::shim
