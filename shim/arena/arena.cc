#include "shim/arena/arena.h"

#include <algorithm>
#include <cstring>
#include <new>

#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/local.h"

namespace inlay::shim {
namespace {

// What the shared mapping begins with.
struct Header {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t slot_size;
  std::uint32_t uid;
  SharedLock lock;                          // guards the free lists
  std::atomic<bool> closed;                 // to new slots
  std::atomic<std::uint32_t> high_water;    // slots ever used
  std::uint32_t free_slot;                  // list of slots used before, kNoChunk ends it
  std::uint32_t free_chunk;
  std::uint32_t chunk_high_water;
  std::uint32_t early_chunks;               // in use
};

constexpr std::size_t kPage = 4096;
constexpr std::size_t round_up(std::size_t bytes) { return (bytes + kPage - 1) & ~(kPage - 1); }

constexpr std::size_t kCookiesAt = round_up(sizeof(Header));
constexpr std::size_t kSlotsAt = kCookiesAt + round_up(kSlotsPerArena * sizeof(std::uint64_t));
constexpr std::size_t kChunksAt = kSlotsAt + round_up(kSlotsPerArena * sizeof(Slot));
constexpr std::size_t kArenaSize = kChunksAt + std::size_t{kChunksPerArena} * kChunkSize;

// One mapped arena of this process.
struct Mapping {
  Header *header;
  std::atomic<std::uint64_t> *cookies;  // compact copy of the slots' cookies, for the search
  Slot *slots;
  Chunk *chunks;
  Local *locals;  // process-private, wiped on fork
};

Mapping g_mappings[kMaxArenas];
std::atomic<unsigned> g_mapping_count{0};
SharedLock g_mappings_lock;  // process-private; reset in children

void *map(int fd, std::size_t size, int flags) noexcept {
  long result = kernel::call(SYS_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE,
                             flags | MAP_NORESERVE, fd, 0);
  return result < 0 && result > -4096 ? nullptr : reinterpret_cast<void *>(result);
}

// An anonymous shared mapping: the kernel backs it by shmem, fork shares it, no descriptor shows.
bool map_arena(Mapping &mapping) noexcept {
  auto *base = static_cast<std::byte *>(map(-1, kArenaSize, MAP_SHARED | MAP_ANONYMOUS));
  auto *locals = static_cast<Local *>(
      map(-1, round_up(kSlotsPerArena * sizeof(Local)), MAP_PRIVATE | MAP_ANONYMOUS));
  if (base == nullptr || locals == nullptr) return false;
  kernel::call(SYS_madvise, kernel::word(base), kArenaSize, MADV_DONTDUMP);
  kernel::call(SYS_madvise, kernel::word(locals), round_up(kSlotsPerArena * sizeof(Local)),
               MADV_WIPEONFORK);
  mapping.header = new (base) Header{};
  mapping.header->magic = kArenaMagic;
  mapping.header->version = kArenaVersion;
  mapping.header->slot_size = sizeof(Slot);
  mapping.header->uid = static_cast<std::uint32_t>(kernel::call(SYS_geteuid));
  mapping.header->free_slot = kNoChunk;
  mapping.header->free_chunk = kNoChunk;
  mapping.cookies = reinterpret_cast<std::atomic<std::uint64_t> *>(base + kCookiesAt);
  mapping.slots = reinterpret_cast<Slot *>(base + kSlotsAt);
  mapping.chunks = reinterpret_cast<Chunk *>(base + kChunksAt);
  mapping.locals = locals;
  return true;
}

// A fresh arena, when there were `count`; or the one another thread has made meanwhile.
Mapping *another_mapping(unsigned count) noexcept {
  Locked guard(g_mappings_lock);
  if (guard.reentered()) return nullptr;
  if (g_mapping_count.load(std::memory_order_acquire) != count) {
    return &g_mappings[g_mapping_count.load(std::memory_order_relaxed) - 1];
  }
  if (count == kMaxArenas || !map_arena(g_mappings[count])) return nullptr;
  g_mapping_count.store(count + 1, std::memory_order_release);
  return &g_mappings[count];
}

Mapping *open_mapping() noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = count; i-- > 0;) {
    Mapping &candidate = g_mappings[i];
    if (!candidate.header->closed.load(std::memory_order_relaxed)) return &candidate;
    break;  // fork closes all
  }
  return another_mapping(count);
}

Mapping &mapping_of(const Slot &slot) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = count; i-- > 1;) {
    if (&slot >= g_mappings[i].slots && &slot < g_mappings[i].slots + kSlotsPerArena) {
      return g_mappings[i];
    }
  }
  return g_mappings[0];
}

void initialise(Slot &slot, std::uint64_t cookie, State state) noexcept {
  std::uint32_t generation = slot.generation.load(std::memory_order_relaxed);
  std::uint32_t index = slot.index;
  // The locks outlive the use: a helper that comes late to the slot's last one may hold them.
  auto *bytes = reinterpret_cast<std::byte *>(&slot);
  std::size_t from = 0;
  for (SharedLock *lock : {&slot.life_lock, &slot.receive_lock, &slot.send_lock}) {
    auto at = static_cast<std::size_t>(reinterpret_cast<std::byte *>(lock) - bytes);
    std::memset(bytes + from, 0, at - from);
    lock->renew();
    from = at + sizeof(SharedLock);
  }
  std::memset(bytes + from, 0, sizeof(Slot) - from);
  slot.index = index;
  slot.generation.store(generation + 1, std::memory_order_relaxed);
  slot.receiving.head_chunk = kNoChunk;
  slot.sending.early = Queue{};
  slot.sending.tail = Queue{};
  slot.rule = policy::kNoRule;
  slot.receive_low_water.store(1, std::memory_order_relaxed);
  slot.holders[0].descriptors.store(1, std::memory_order_relaxed);
  slot.holders[0].pid.store(process_id(), std::memory_order_relaxed);
  slot.state.store(state, std::memory_order_relaxed);
  slot.cookie.store(cookie, std::memory_order_release);
}

}  // namespace

// Null when the arena is full.
static Slot *allocate_in(Mapping &mapping, std::uint64_t cookie, State state) noexcept {
  Header &header = *mapping.header;
  Locked guard(header.lock);
  if (guard.reentered()) return nullptr;
  std::uint32_t index = header.free_slot;
  if (index != kNoChunk) {
    header.free_slot = mapping.slots[index].next_free;
  } else {
    index = header.high_water.load(std::memory_order_relaxed);
    if (index == kSlotsPerArena) return nullptr;
    mapping.slots[index].index = index;
    header.high_water.store(index + 1, std::memory_order_release);
  }
  Slot &slot = mapping.slots[index];
  initialise(slot, cookie, state);
  mapping.locals[index].reset();
  mapping.cookies[index].store(cookie, std::memory_order_release);
  return &slot;
}

Slot *allocate_slot(std::uint64_t cookie, State state) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  Mapping *mapping = open_mapping();
  Slot *slot = mapping != nullptr ? allocate_in(*mapping, cookie, state) : nullptr;
  // Full: what has become free in the older ones first.
  for (unsigned i = 0; slot == nullptr && mapping != nullptr && i < count; ++i) {
    if (g_mappings[i].header->closed.load(std::memory_order_acquire)) continue;
    slot = allocate_in(g_mappings[i], cookie, state);
  }
  if (slot != nullptr || mapping == nullptr) return slot;
  mapping = another_mapping(count);
  return mapping != nullptr ? allocate_in(*mapping, cookie, state) : nullptr;
}

void free_slot(Slot &slot) noexcept {
  Mapping &mapping = mapping_of(slot);
  mapping.cookies[slot.index].store(0, std::memory_order_release);
  drop_local(slot);
  queue_clear(slot, slot.sending.early);
  queue_clear(slot, slot.sending.tail);
  if (slot.receiving.head_chunk != kNoChunk) return_chunk(slot, slot.receiving.head_chunk);
  std::memset(static_cast<void *>(&slot.receiving.traffic), 0, sizeof(tls::TrafficState));
  std::memset(static_cast<void *>(&slot.sending.traffic), 0, sizeof(tls::TrafficState));
  slot.state.store(State::free, std::memory_order_relaxed);
  slot.cookie.store(0, std::memory_order_release);
  Locked guard(mapping.header->lock);
  if (guard.reentered()) return;  // the slot is lost, nothing else
  slot.next_free = mapping.header->free_slot;
  mapping.header->free_slot = slot.index;
}

Slot *find_slot(std::uint64_t cookie) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = count; i-- > 0;) {
    Mapping &mapping = g_mappings[i];
    std::uint32_t used = mapping.header->high_water.load(std::memory_order_acquire);
    for (std::uint32_t index = 0; index < used; ++index) {
      if (mapping.cookies[index].load(std::memory_order_acquire) == cookie) {
        return &mapping.slots[index];
      }
    }
  }
  return nullptr;
}

Local &local(Slot &slot) noexcept { return mapping_of(slot).locals[slot.index]; }

void close_arenas() noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i) {
    g_mappings[i].header->closed.store(true, std::memory_order_relaxed);
  }
}

void reset_arena_locks() noexcept { g_mappings_lock.reset(); }

unsigned arena_count() noexcept { return g_mapping_count.load(std::memory_order_acquire); }

std::uint32_t arena_high_water(unsigned arena) noexcept {
  return g_mappings[arena].header->high_water.load(std::memory_order_acquire);
}

Slot *arena_slot(unsigned arena, std::uint32_t index) noexcept {
  return &g_mappings[arena].slots[index];
}

std::uint32_t take_chunk(Slot &slot, bool early) noexcept {
  Mapping &mapping = mapping_of(slot);
  Header &header = *mapping.header;
  Locked guard(header.lock);
  if (guard.reentered() || (early && header.early_chunks == kEarlyChunks)) return kNoChunk;
  std::uint32_t chunk = header.free_chunk;
  if (chunk != kNoChunk) {
    header.free_chunk = mapping.chunks[chunk].next;
  } else {
    if (header.chunk_high_water == kChunksPerArena) return kNoChunk;
    chunk = header.chunk_high_water++;
  }
  mapping.chunks[chunk].next = kNoChunk;
  mapping.chunks[chunk].begin = 0;
  mapping.chunks[chunk].end = 0;
  mapping.chunks[chunk].early = early ? 1 : 0;
  header.early_chunks += mapping.chunks[chunk].early;
  return chunk;
}

void return_chunk(Slot &slot, std::uint32_t chunk) noexcept {
  Mapping &mapping = mapping_of(slot);
  // Early data is plaintext: it does not outlive its use.
  Chunk &returned = mapping.chunks[chunk];
  std::memset(returned.bytes, 0, std::min<std::size_t>(returned.end, kChunkBytes));
  Locked guard(mapping.header->lock);
  if (guard.reentered()) return;
  mapping.header->early_chunks -= returned.early;
  returned.next = mapping.header->free_chunk;
  mapping.header->free_chunk = chunk;
}

Chunk &chunk_at(Slot &slot, std::uint32_t chunk) noexcept { return mapping_of(slot).chunks[chunk]; }

std::size_t queue_append(Slot &slot, Queue &queue, const std::uint8_t *bytes,
                         std::size_t length) noexcept {
  std::size_t done = 0;
  while (done < length) {
    if (queue.last == kNoChunk || chunk_at(slot, queue.last).end == kChunkBytes) {
      std::uint32_t fresh = take_chunk(slot, &queue == &slot.sending.early);
      if (fresh == kNoChunk) break;
      if (queue.last == kNoChunk) {
        queue.first = fresh;
      } else {
        chunk_at(slot, queue.last).next = fresh;
      }
      queue.last = fresh;
    }
    Chunk &chunk = chunk_at(slot, queue.last);
    std::size_t part = std::min<std::size_t>(length - done, kChunkBytes - chunk.end);
    std::memcpy(chunk.bytes + chunk.end, bytes + done, part);
    chunk.end += static_cast<std::uint32_t>(part);
    queue.length += part;
    done += part;
  }
  return done;
}

std::span<std::uint8_t> queue_front(Slot &slot, Queue &queue) noexcept {
  if (queue.first == kNoChunk) return {};
  Chunk &chunk = chunk_at(slot, queue.first);
  return {chunk.bytes + chunk.begin, chunk.end - chunk.begin};
}

void queue_pop(Slot &slot, Queue &queue, std::size_t length) noexcept {
  while (length > 0 && queue.first != kNoChunk) {
    std::uint32_t first = queue.first;
    Chunk &chunk = chunk_at(slot, first);
    std::size_t part = std::min<std::size_t>(length, chunk.end - chunk.begin);
    chunk.begin += static_cast<std::uint32_t>(part);
    queue.length -= part;
    length -= part;
    if (chunk.begin < chunk.end) break;
    queue.first = chunk.next;
    if (queue.first == kNoChunk) queue.last = kNoChunk;
    return_chunk(slot, first);
  }
}

void queue_clear(Slot &slot, Queue &queue) noexcept {
  while (queue.first != kNoChunk) {
    std::uint32_t first = queue.first;
    queue.first = chunk_at(slot, first).next;
    return_chunk(slot, first);
  }
  queue = Queue{};
}

}  // namespace inlay::shim
