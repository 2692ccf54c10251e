#include "shim/arena/arena.h"

#include <algorithm>
#include <cstring>
#include <new>

#include <sys/mman.h>
#include <sys/stat.h>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/arena/shared_memory.h"
#include "shim/session/lifetime.h"
#include "shim/session/local.h"

namespace inlay::shim {
namespace {

// What the shared mapping begins with. The first four must match for a process to take over an
// arena that another build of inlay may have made.
struct Header {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t slot_size;
  std::uint32_t uid;                        // effective, of the process that made it
  SharedLock lock;                          // guards the free lists
  std::atomic<bool> closed;                 // to new slots
  std::atomic<std::uint32_t> high_water;    // slots ever used
  std::uint32_t free_slot;                  // list of slots used before, kNoChunk ends it
  std::uint32_t free_chunk;
  std::uint32_t chunk_high_water;
  std::uint32_t early_chunks;               // in use
  char own_id[256];                         // of the process, for the log of the image that inherits
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
  int fd;         // inlay's own, for exec; -1: the memory has none
  std::uint64_t inode;
};

Mapping g_mappings[kMaxArenas];
std::atomic<unsigned> g_mapping_count{0};
std::atomic<unsigned> g_newest{0};  // where new slots are looked for first
std::atomic<unsigned> g_made{0};    // grows with each arena
SharedLock g_mappings_lock;         // process-private; reset in children
char g_own_id[sizeof(Header::own_id)];

constexpr std::size_t kLocalsSize = round_up(kSlotsPerArena * sizeof(Local));

Local *map_locals() noexcept {
  long result = kernel::call(SYS_mmap, 0, kLocalsSize, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (result < 0 && result > -4096) return nullptr;
  kernel::call(SYS_madvise, result, kLocalsSize, MADV_WIPEONFORK);
  return reinterpret_cast<Local *>(result);
}

void place(Mapping &mapping, const SharedMemory &memory) noexcept {
  mapping.header = reinterpret_cast<Header *>(memory.base);
  mapping.cookies = reinterpret_cast<std::atomic<std::uint64_t> *>(memory.base + kCookiesAt);
  mapping.slots = reinterpret_cast<Slot *>(memory.base + kSlotsAt);
  mapping.chunks = reinterpret_cast<Chunk *>(memory.base + kChunksAt);
  mapping.fd = memory.fd;
  mapping.inode = memory.inode;
}

std::uint32_t effective_uid() noexcept {
  return static_cast<std::uint32_t>(kernel::call(SYS_geteuid));
}

// `instead_of`: the memory that a used-up arena's is replaced with, in place; null for another one.
bool map_arena(Mapping &mapping, void *instead_of) noexcept {
  Local *locals = instead_of == nullptr ? map_locals() : mapping.locals;
  if (locals == nullptr) return false;
  SharedMemory memory = make_shared_memory(kArenaSize, instead_of);
  if (memory.base == nullptr) {
    if (instead_of == nullptr) kernel::call(SYS_munmap, kernel::word(locals), kLocalsSize);
    return false;
  }
  mapping.locals = locals;
  auto *header = new (memory.base) Header{};
  header->version = kArenaVersion;
  header->slot_size = sizeof(Slot);
  header->uid = effective_uid();
  header->free_slot = kNoChunk;
  header->free_chunk = kNoChunk;
  std::memcpy(header->own_id, g_own_id, sizeof g_own_id);
  header->magic = kArenaMagic;
  place(mapping, memory);
  return true;
}

bool is_within(const Mapping &mapping, const Slot *slot) noexcept {
  return slot >= mapping.slots && slot < mapping.slots + kSlotsPerArena;
}

// Closed to new slots, and this process shares none of its sessions any more: those that are left
// are other processes'.
bool is_used_up(const Mapping &mapping) noexcept {
  if (!mapping.header->closed.load(std::memory_order_acquire)) return false;
  std::uint32_t used = mapping.header->high_water.load(std::memory_order_acquire);
  for (std::uint32_t index = 0; index < used; ++index) {
    const Local &mine = mapping.locals[index];
    if (mine.descriptor != 0 || mine.task != nullptr) return false;
  }
  for (int fd = 0; fd <= highest_descriptor(); ++fd) {
    std::uint64_t word = descriptor_word(fd);
    if ((word & kManagedBit) == 0) continue;
    if (is_within(mapping, reinterpret_cast<Slot *>(word & ~kManagedBit))) return false;
  }
  return true;
}

// A server that forks for each connection closes an arena each time: the memory of one it shares
// nothing of is replaced. Not unmapped: a call of another thread may still look at a slot it had
// before the close, and finds it free.
bool renew(Mapping &mapping) noexcept {
  int fd = mapping.fd;
  if (!map_arena(mapping, mapping.header)) return false;
  close_own(fd);
  return true;
}

// A fresh arena, when `made` were made before; or the one another thread has made meanwhile.
Mapping *another_mapping(unsigned made) noexcept {
  Locked guard(g_mappings_lock);
  if (guard.reentered()) return nullptr;
  if (g_made.load(std::memory_order_acquire) != made) {
    return &g_mappings[g_newest.load(std::memory_order_relaxed)];
  }
  unsigned count = g_mapping_count.load(std::memory_order_relaxed);
  unsigned index = 0;
  while (index < count && !is_used_up(g_mappings[index])) ++index;
  if (index == kMaxArenas) return nullptr;
  if (!(index < count ? renew(g_mappings[index]) : map_arena(g_mappings[index], nullptr))) {
    return nullptr;
  }
  g_newest.store(index, std::memory_order_release);
  if (index == count) g_mapping_count.store(count + 1, std::memory_order_release);
  g_made.store(made + 1, std::memory_order_release);
  return &g_mappings[index];
}

Mapping *open_mapping() noexcept {
  unsigned made = g_made.load(std::memory_order_acquire);
  if (made > 0) {
    Mapping &newest = g_mappings[g_newest.load(std::memory_order_acquire)];
    if (!newest.header->closed.load(std::memory_order_acquire)) return &newest;
  }
  return another_mapping(made);  // fork closes all
}

Mapping &mapping_of(const Slot &slot) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = count; i-- > 1;) {
    if (is_within(g_mappings[i], &slot)) return g_mappings[i];
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
  unsigned made = g_made.load(std::memory_order_acquire);
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  Mapping *mapping = open_mapping();
  Slot *slot = mapping != nullptr ? allocate_in(*mapping, cookie, state) : nullptr;
  // Full: what has become free in the older ones first.
  for (unsigned i = 0; slot == nullptr && mapping != nullptr && i < count; ++i) {
    if (g_mappings[i].header->closed.load(std::memory_order_acquire)) continue;
    slot = allocate_in(g_mappings[i], cookie, state);
  }
  if (slot != nullptr || mapping == nullptr) return slot;
  mapping = another_mapping(made);
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

void note_own_id(std::string_view id) noexcept {
  std::size_t length = std::min(id.size(), sizeof g_own_id - 1);
  std::memcpy(g_own_id, id.data(), length);
  g_own_id[length] = '\0';
  for (unsigned i = 0; i < arena_count(); ++i) {
    std::memcpy(g_mappings[i].header->own_id, g_own_id, sizeof g_own_id);
  }
}

std::string_view own_id_in_arena(unsigned arena) noexcept {
  const char *id = g_mappings[arena].header->own_id;
  return {id, strnlen(id, sizeof(Header::own_id))};
}

void close_arena(unsigned arena) noexcept {
  g_mappings[arena].header->closed.store(true, std::memory_order_release);
}

unsigned arena_of(const Slot &slot) noexcept {
  return static_cast<unsigned>(&mapping_of(slot) - g_mappings);
}

ArenaDescriptor arena_descriptor(unsigned arena) noexcept {
  const Mapping &mapping = g_mappings[arena];
  constexpr ArenaDescriptor kNone{-1, 0};
  if (mapping.fd < 0 || mapping.header->uid != effective_uid()) return kNone;
  // The program may have closed or replaced the number by calls no hook sees.
  if (!is_shared_memory(mapping.fd, mapping.inode, kArenaSize)) return kNone;
  return {mapping.fd, mapping.inode};
}

bool is_arena_descriptor(int fd) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i) {
    if (g_mappings[i].fd == fd) return true;
  }
  return false;
}

bool adopt_arena(ArenaDescriptor descriptor) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_relaxed);
  if (count == kMaxArenas) return false;
  Mapping &mapping = g_mappings[count];
  SharedMemory memory = map_inherited(descriptor.fd, descriptor.inode, kArenaSize);
  if (memory.base == nullptr) return false;
  place(mapping, memory);
  const Header &header = *mapping.header;
  if (header.magic != kArenaMagic || header.version != kArenaVersion ||
      header.slot_size != sizeof(Slot) || header.uid != effective_uid() ||
      (mapping.locals = map_locals()) == nullptr) {
    kernel::call(SYS_munmap, kernel::word(memory.base), kArenaSize);
    close_own(memory.fd);
    return false;
  }
  // Of this thread's number in the image before.
  mapping.header->lock.release_for(current_thread_id());
  g_newest.store(count, std::memory_order_release);
  g_mapping_count.store(count + 1, std::memory_order_release);
  g_made.store(count + 1, std::memory_order_release);
  return true;
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
