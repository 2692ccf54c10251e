#include "shim/arena/arena.h"

#include <algorithm>
#include <cstring>

#include <sys/mman.h>
#include <sys/stat.h>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/layout.h"
#include "shim/arena/process.h"
#include "shim/arena/published.h"
#include "shim/arena/shared_memory.h"
#include "shim/boot/sandbox.h"
#include "shim/session/lifetime.h"
#include "shim/session/local.h"

namespace inlay::shim {
namespace {

// One mapped arena of this process.
struct Mapping {
  Header *header;
  std::atomic<std::uint64_t> *cookies;  // compact copy of the slots' cookies, for the search
  Slot *slots;
  Chunk *chunks;
  Local *locals;  // process-private, wiped on fork
  // What is below changes when the memory is replaced in place.
  std::atomic<int> fd;  // inlay's own, for exec; -1: the memory has none
  std::atomic<std::uint64_t> inode;
  std::atomic<bool> foreign;  // of a process of another tree: nothing new goes there
};

constinit Mapping g_mappings[kMaxArenas] = {};
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
  if (kernel::call(SYS_madvise, result, kLocalsSize, MADV_WIPEONFORK) != 0) {
    kernel::call(SYS_munmap, result, kLocalsSize);  // a child would take its parent's for its own
    return nullptr;
  }
  return reinterpret_cast<Local *>(result);
}

void place(Mapping &mapping, const SharedMemory &memory, bool foreign) noexcept {
  auto *header = reinterpret_cast<Header *>(memory.base);
  if (mapping.header != header) {  // else other threads look at it
    mapping.header = header;
    mapping.cookies = reinterpret_cast<std::atomic<std::uint64_t> *>(memory.base + kCookiesAt);
    mapping.slots = reinterpret_cast<Slot *>(memory.base + kSlotsAt);
    mapping.chunks = reinterpret_cast<Chunk *>(memory.base + kChunksAt);
  }
  mapping.fd.store(memory.fd, std::memory_order_relaxed);
  mapping.inode.store(memory.inode, std::memory_order_relaxed);
  mapping.foreign.store(foreign, std::memory_order_release);
  vouch_in(static_cast<unsigned>(&mapping - g_mappings),
           {memory.base, kArenaSize, memory.fd, &mapping.header->doubts});
}

// Whether new sessions of this process may go there.
bool is_open(const Mapping &mapping) noexcept {
  return !mapping.foreign.load(std::memory_order_acquire) &&
         mapping.header->magic.load(std::memory_order_acquire) == kArenaMagic &&
         !mapping.header->closed.load(std::memory_order_acquire);
}

std::uint32_t high_water(const Mapping &mapping) noexcept {
  return std::min(mapping.header->high_water.load(std::memory_order_acquire), kSlotsPerArena);
}

enum class Kind : std::uint8_t { any, with_descriptor };

// `instead_of`: the memory that a used-up arena's is replaced with, in place; null for another one.
bool map_arena(Mapping &mapping, void *instead_of, Kind kind) noexcept {
  Local *locals = instead_of == nullptr ? map_locals() : mapping.locals;
  if (locals == nullptr) return false;
  SharedMemory memory = make_shared_memory(kArenaSize, instead_of, kind == Kind::any);
  if (memory.base == nullptr) {
    if (instead_of == nullptr) kernel::call(SYS_munmap, kernel::word(locals), kLocalsSize);
    return false;
  }
  if (instead_of == nullptr) mapping.locals = locals;
  // All zero, as a Header begins. In another's place other threads look at it meanwhile.
  auto *header = reinterpret_cast<Header *>(memory.base);
  header->version = kArenaVersion;
  header->slot_size = sizeof(Slot);
  header->uid = effective_uid();
  header->free_slot = kNoChunk;
  header->free_chunk = kNoChunk;
  publish(header->own_id, sizeof header->own_id, g_own_id);
  place(mapping, memory, false);
  header->magic.store(kArenaMagic, std::memory_order_release);
  return true;
}

bool is_within(const Mapping &mapping, const Slot *slot) noexcept {
  return slot >= mapping.slots && slot < mapping.slots + kSlotsPerArena;
}

// Nothing new goes there, and this process shares none of its sessions any more: those that are left
// are other processes'.
bool is_used_up(const Mapping &mapping) noexcept {
  if (is_open(mapping)) return false;
  std::uint32_t used = high_water(mapping);
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
bool renew(Mapping &mapping, Kind kind) noexcept {
  int fd = mapping.fd;
  if (!map_arena(mapping, mapping.header, kind)) return false;
  close_own(fd);
  return true;
}

// Of the mapping that a further arena may have: one that is used up, or the next; kMaxArenas when
// there is none. g_mappings_lock held.
unsigned free_mapping() noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_relaxed);
  unsigned index = 0;
  while (index < count && !is_used_up(g_mappings[index])) ++index;
  return index;
}

// A fresh arena, when `made` were made before; or the one another thread has made meanwhile.
Mapping *another_mapping(unsigned made, Kind kind = Kind::any) noexcept {
  Locked guard(g_mappings_lock);
  if (guard.reentered()) return nullptr;
  if (g_made.load(std::memory_order_acquire) != made) {
    return &g_mappings[g_newest.load(std::memory_order_relaxed)];
  }
  unsigned count = g_mapping_count.load(std::memory_order_relaxed);
  unsigned index = free_mapping();
  if (index == kMaxArenas) return nullptr;
  Mapping &next = g_mappings[index];
  if (!(index < count ? renew(next, kind) : map_arena(next, nullptr, kind))) return nullptr;
  g_newest.store(index, std::memory_order_release);
  if (index == count) g_mapping_count.store(count + 1, std::memory_order_release);
  g_made.store(made + 1, std::memory_order_release);
  return &g_mappings[index];
}

Mapping *open_mapping() noexcept {
  unsigned made = g_made.load(std::memory_order_acquire);
  if (made > 0) {
    Mapping &newest = g_mappings[g_newest.load(std::memory_order_acquire)];
    if (is_open(newest) && (newest.fd >= 0 || boot::sandboxed())) return &newest;
    if (is_open(newest)) {
      // There was no descriptor to be had: no program executed here could go on with its sessions.
      Mapping *better = another_mapping(made, Kind::with_descriptor);
      if (better == nullptr) return &newest;
      if (better != &newest) newest.header->closed.store(true, std::memory_order_release);
      return better;
    }
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

// Not Slot::index, which another process may have written.
std::uint32_t index_of(const Mapping &mapping, const Slot &slot) noexcept {
  return is_within(mapping, &slot) ? static_cast<std::uint32_t>(&slot - mapping.slots) : 0;
}

Slot *find_in(Mapping &mapping, std::uint64_t cookie) noexcept {
  std::uint32_t used = high_water(mapping);
  for (std::uint32_t index = 0; index < used; ++index) {
    if (mapping.cookies[index].load(std::memory_order_acquire) == cookie) {
      return &mapping.slots[index];
    }
  }
  return nullptr;
}

}  // namespace

// Null when the arena is full.
static Slot *allocate_in(Mapping &mapping, std::uint64_t cookie, State state) noexcept {
  Header &header = *mapping.header;
  Locked guard(header.lock);
  if (guard.reentered()) return nullptr;
  std::uint32_t index = header.free_slot;
  // What a process of another tree knows of a slot must never be of an earlier session.
  bool once = header.adopted.load(std::memory_order_acquire);
  if (index < kSlotsPerArena && !once) {
    header.free_slot = mapping.slots[index].next_free;
  } else {
    index = header.high_water.load(std::memory_order_relaxed);
    if (index >= kSlotsPerArena) {
      if (once) header.closed.store(true, std::memory_order_release);
      return nullptr;
    }
    mapping.slots[index].index = index;
    header.high_water.store(index + 1, std::memory_order_release);
  }
  guard.unlock();  // who frees a slot takes this one last
  Slot &slot = mapping.slots[index];
  begin_use(slot, mapping.locals[index], cookie, state);
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
    if (!is_open(g_mappings[i])) continue;
    slot = allocate_in(g_mappings[i], cookie, state);
  }
  if (slot != nullptr || mapping == nullptr) return slot;
  mapping = another_mapping(made);
  return mapping != nullptr ? allocate_in(*mapping, cookie, state) : nullptr;
}

void free_slot(Slot &slot) noexcept {
  Mapping &mapping = mapping_of(slot);
  const std::uint32_t index = index_of(mapping, slot);
  mapping.cookies[index].store(0, std::memory_order_release);
  if (!end_use(slot)) return;
  slot.state.store(State::free, std::memory_order_relaxed);
  slot.cookie.store(0, std::memory_order_release);
  Locked guard(mapping.header->lock);
  if (guard.reentered()) return;  // the slot is lost, nothing else
  slot.next_free = mapping.header->free_slot;
  mapping.header->free_slot = index;
}

Slot *find_slot(std::uint64_t cookie) noexcept {
  if (cookie == 0) return nullptr;  // the kernel did not say: free slots have none
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = count; i-- > 0;) {
    if (Slot *slot = find_in(g_mappings[i], cookie)) return slot;
  }
  return nullptr;
}

Local &local(Slot &slot) noexcept {
  Mapping &mapping = mapping_of(slot);
  return mapping.locals[index_of(mapping, slot)];
}

std::size_t address_space_needed() noexcept {
  constexpr std::size_t kArenas = 2;        // after a fork another one, made before the old one goes
  constexpr std::size_t kOther = 32 << 20;  // descriptor table, heap, the helper's stack, the log
  return (arena_count() + kArenas) * (kArenaSize + kLocalsSize) + kOther;
}

void close_arenas() noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i) {
    if (g_mappings[i].foreign.load(std::memory_order_relaxed)) continue;
    g_mappings[i].header->closed.store(true, std::memory_order_relaxed);
  }
}

void note_own_id(std::string_view id) noexcept {
  Locked guard(g_mappings_lock);  // one that another thread maps meanwhile gets it as well
  publish(g_own_id, sizeof g_own_id, id);
  for (unsigned i = 0; i < arena_count(); ++i) {
    if (g_mappings[i].foreign.load(std::memory_order_relaxed)) continue;
    publish(g_mappings[i].header->own_id, sizeof g_own_id, id);
  }
}

std::string_view own_id_in_arena(unsigned arena) noexcept {
  const char *id = published(g_mappings[arena].header->own_id);
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
  const ArenaDescriptor descriptor{mapping.fd, mapping.inode};
  // The program may have closed or replaced the number by calls no hook sees.
  if (!is_shared_memory(descriptor.fd, descriptor.inode, kArenaSize)) return kNone;
  return descriptor;
}

bool is_arena_descriptor(int fd) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i) {
    if (g_mappings[i].fd == fd) return true;
  }
  return false;
}

void raise_doubt(unsigned arena) noexcept {
  g_mappings[arena].header->doubts.fetch_add(1, std::memory_order_acq_rel);
}

void settle_doubt(unsigned arena) noexcept {
  std::atomic<std::uint32_t> &doubts = g_mappings[arena].header->doubts;
  std::uint32_t seen = doubts.load(std::memory_order_relaxed);
  while (seen > 0 && !doubts.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) {
  }
}

bool is_foreign_arena(unsigned arena) noexcept {
  return g_mappings[arena].foreign.load(std::memory_order_acquire);
}

bool adopt_arena(ArenaDescriptor descriptor) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_relaxed);
  if (count == kMaxArenas) return false;
  Mapping &mapping = g_mappings[count];
  SharedMemory memory = map_inherited(descriptor.fd, descriptor.inode, kArenaSize);
  if (memory.base == nullptr) {
    close_own(memory.fd);
    return false;
  }
  const auto &header = *reinterpret_cast<const Header *>(memory.base);
  if (!is_of_this_build(header) || (mapping.locals = map_locals()) == nullptr) {
    kernel::call(SYS_munmap, kernel::word(memory.base), kArenaSize);
    close_own(memory.fd);
    return false;
  }
  place(mapping, memory, false);
  // Of this thread's number in the image before.
  mapping.header->lock.release_for(this_thread());
  settle_doubt(count);
  g_newest.store(count, std::memory_order_release);
  g_mapping_count.store(count + 1, std::memory_order_release);
  g_made.store(count + 1, std::memory_order_release);
  return true;
}

// From now on nothing renews the mapping under it. g_mappings_lock held.
static void claim(Mapping &mapping, Slot &slot, int fd) noexcept {
  Local &mine = mapping.locals[index_of(mapping, slot)];
  if (mine.descriptor != 0) return;
  if (mapping.foreign.load(std::memory_order_relaxed)) {
    drop_local(slot);
    Task *task = mine.task;
    mine.reset();
    mine.task = task;
    mine.inherited = true;
  }
  mine.descriptor = static_cast<std::uint32_t>(fd) + 1;
}

Slot *claim_slot(std::uint64_t cookie, int fd) noexcept {
  Locked guard(g_mappings_lock);
  Slot *slot = find_slot(cookie);
  if (slot != nullptr && !guard.reentered()) claim(mapping_of(*slot), *slot, fd);
  return slot;
}

static Mapping *mapping_with(std::uint64_t inode) noexcept {
  unsigned count = g_mapping_count.load(std::memory_order_relaxed);
  for (unsigned i = 0; i < count; ++i) {
    if (g_mappings[i].fd >= 0 && g_mappings[i].inode == inode) return &g_mappings[i];
  }
  return nullptr;
}

bool is_mapped_arena(std::uint64_t inode) noexcept { return mapping_with(inode) != nullptr; }

Slot *join_arena(ArenaDescriptor descriptor, std::uint64_t cookie, int fd) noexcept {
  Locked guard(g_mappings_lock);
  unsigned index = guard.reentered() ? kMaxArenas : free_mapping();
  Mapping *mapping = index == kMaxArenas ? nullptr : mapping_with(descriptor.inode);
  if (index == kMaxArenas || mapping != nullptr) {
    Doubt doubt;
    kernel::close(descriptor.fd);  // no room, or another thread was here first
  } else {
    mapping = &g_mappings[index];
    unsigned count = g_mapping_count.load(std::memory_order_relaxed);
    bool fresh = index == count;
    if (fresh && mapping->locals == nullptr) mapping->locals = map_locals();
    SharedMemory memory;
    // Before it is there: another thread would take one of its own that is open for it.
    const bool was_foreign = mapping->foreign.exchange(true, std::memory_order_acq_rel);
    if (mapping->locals != nullptr) {
      memory = map_inherited(descriptor.fd, descriptor.inode, kArenaSize,
                             fresh ? nullptr : mapping->header);
    }
    if (memory.fd < 0) kernel::close(descriptor.fd);
    if (memory.base == nullptr) {
      mapping->foreign.store(was_foreign, std::memory_order_release);
      close_own(memory.fd);
      return nullptr;
    }
    if (!fresh) close_own(mapping->fd);
    place(*mapping, memory, true);
    mapping->header->adopted.store(true, std::memory_order_seq_cst);
    if (fresh) g_mapping_count.store(count + 1, std::memory_order_release);
  }
  Slot *slot = mapping != nullptr ? find_in(*mapping, cookie) : nullptr;
  if (slot != nullptr) claim(*mapping, *slot, fd);
  return slot;
}

void reset_arena_locks() noexcept { g_mappings_lock.reset(); }

unsigned arena_count() noexcept { return g_mapping_count.load(std::memory_order_acquire); }

std::uint32_t arena_high_water(unsigned arena) noexcept {
  return high_water(g_mappings[arena]);
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
  if (chunk < kChunksPerArena) {
    header.free_chunk = mapping.chunks[chunk].next;
  } else {
    if (header.chunk_high_water >= kChunksPerArena) return kNoChunk;
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
  Chunk &returned = chunk_at(slot, chunk);
  std::memset(returned.bytes, 0, std::min<std::size_t>(returned.end, kChunkBytes));
  Locked guard(mapping.header->lock);
  if (guard.reentered()) return;
  mapping.header->early_chunks -= returned.early;
  returned.next = mapping.header->free_chunk;
  mapping.header->free_chunk = std::min(chunk, kChunksPerArena - 1);
}

Chunk &chunk_at(Slot &slot, std::uint32_t chunk) noexcept {
  return mapping_of(slot).chunks[std::min(chunk, kChunksPerArena - 1)];
}

}  // namespace inlay::shim
