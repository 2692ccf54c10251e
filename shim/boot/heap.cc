#include "shim/boot/heap.h"

#include <linux/futex.h>
#include <openssl/crypto.h>
#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>

#include "identity/memory.h"
#include "shim/arena/kernel.h"

namespace inlay::shim::boot {
namespace {

constexpr std::size_t kChunkSize = 1u << 20;  // and alignment
constexpr std::size_t kSpanSize = 64u << 10;  // one size class each
constexpr std::size_t kSpans = kChunkSize / kSpanSize;
constexpr std::size_t kHeaderSize = 4096;  // of a chunk: what follows stays page-aligned
constexpr std::size_t kLargest = 32u << 10;
constexpr std::uint8_t kUnassigned = 0xff;

// Four classes per power of two from 64 up; multiples of 16 below.
constexpr std::size_t class_of(std::size_t size) noexcept {
  if (size <= 64) return size <= 16 ? 0 : (size + 15) / 16 - 1;
  auto top = static_cast<std::size_t>(std::bit_width(size - 1)) - 1;  // 2^top < size <= 2^(top+1)
  std::size_t quarter = (size - 1 - (std::size_t{1} << top)) >> (top - 2);
  return 4 + (top - 6) * 4 + quarter;
}
constexpr std::size_t size_of_class(std::size_t index) noexcept {
  if (index < 4) return (index + 1) * 16;
  std::size_t top = 6 + (index - 4) / 4, quarter = (index - 4) % 4;
  return (std::size_t{1} << top) + ((quarter + 1) << (top - 2));
}
constexpr std::size_t kClasses = class_of(kLargest) + 1;
static_assert(size_of_class(class_of(kLargest)) == kLargest);
static_assert(class_of(65) == 4 && size_of_class(4) == 80 && class_of(80) == 4);

struct Chunk {
  std::size_t mapped;  // bytes of a large block's mapping; 0 for a chunk of spans
  std::uint8_t span_class[kSpans];
};

struct Free {
  Free *next;
};

// The part of a class's last span that was never handed out. Its pages cost nothing until then.
struct Untouched {
  char *begin = nullptr, *end = nullptr;
};

// Waits in the kernel; no thread-library state. 0 free, 1 held, 2 held with waiters.
class Lock {
 public:
  void acquire() noexcept {
    std::uint32_t seen = 0;
    if (word_.compare_exchange_strong(seen, 1, std::memory_order_acquire)) return;
    while (word_.exchange(2, std::memory_order_acquire) != 0) {
      kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAIT_PRIVATE, 2);
    }
  }
  void release() noexcept {
    if (word_.exchange(0, std::memory_order_release) == 2) {
      kernel::call(SYS_futex, kernel::word(&word_), FUTEX_WAKE_PRIVATE, 1);
    }
  }

 private:
  std::atomic<std::uint32_t> word_{0};
};

struct Heap {
  Lock lock;
  Free *free[kClasses] = {};
  Untouched untouched[kClasses];
  Chunk *chunk = nullptr;  // the one spans are cut from
  std::size_t next_span = kSpans;
};
constinit Heap g_heap;

// A mapping of `size` bytes whose start is a multiple of kChunkSize.
char *map_aligned(std::size_t size) noexcept {
  std::size_t room = size + kChunkSize;
  long base = kernel::call(SYS_mmap, 0, static_cast<long>(room), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base < 0 && base > -4096) return nullptr;
  auto start = static_cast<std::uintptr_t>(base);
  std::uintptr_t aligned = (start + kChunkSize - 1) & ~(kChunkSize - 1);
  if (aligned > start) kernel::call(SYS_munmap, base, static_cast<long>(aligned - start));
  std::uintptr_t end = start + room;
  if (aligned + size < end) {
    kernel::call(SYS_munmap, static_cast<long>(aligned + size),
                 static_cast<long>(end - aligned - size));
  }
  return reinterpret_cast<char *>(aligned);
}

Chunk *chunk_of(void *block) noexcept {
  return reinterpret_cast<Chunk *>(reinterpret_cast<std::uintptr_t>(block) & ~(kChunkSize - 1));
}

void *allocate_large(std::size_t size) noexcept {
  constexpr std::size_t kPage = 4096;
  if (size > SIZE_MAX - 2 * kChunkSize) return nullptr;
  std::size_t mapped = (size + kHeaderSize + kPage - 1) & ~(kPage - 1);
  char *base = map_aligned(mapped);
  if (base == nullptr) return nullptr;
  reinterpret_cast<Chunk *>(base)->mapped = mapped;
  return base + kHeaderSize;
}

// Gives the class a span. The lock is held.
bool refill(std::size_t index) noexcept {
  if (g_heap.next_span == kSpans) {
    char *base = map_aligned(kChunkSize);
    if (base == nullptr) return false;
    g_heap.chunk = reinterpret_cast<Chunk *>(base);
    std::memset(g_heap.chunk->span_class, kUnassigned, kSpans);
    g_heap.next_span = 0;
  }
  std::size_t span = g_heap.next_span++;
  g_heap.chunk->span_class[span] = static_cast<std::uint8_t>(index);
  char *begin = reinterpret_cast<char *>(g_heap.chunk) + span * kSpanSize;
  char *end = begin + kSpanSize;
  if (span == 0) begin += kHeaderSize;
  g_heap.untouched[index] = {begin, end};
  return true;
}

// The lock is held.
void *take(std::size_t index) noexcept {
  if (Free *block = g_heap.free[index]; block != nullptr) {
    g_heap.free[index] = block->next;
    return block;
  }
  const std::size_t size = size_of_class(index);
  const Untouched &untouched = g_heap.untouched[index];
  if (static_cast<std::size_t>(untouched.end - untouched.begin) < size && !refill(index))
    return nullptr;
  char *const block = g_heap.untouched[index].begin;
  g_heap.untouched[index].begin += size;
  return block;
}

void *allocate_small(std::size_t size) noexcept {
  const std::size_t index = class_of(size);
  g_heap.lock.acquire();
  void *const block = take(index);
  g_heap.lock.release();
  return block;
}

std::size_t room_of(void *block) noexcept {
  Chunk *chunk = chunk_of(block);
  if (chunk->mapped != 0) return chunk->mapped - kHeaderSize;
  auto offset =
      static_cast<std::size_t>(static_cast<char *>(block) - reinterpret_cast<char *>(chunk));
  return size_of_class(chunk->span_class[offset / kSpanSize]);
}

void *openssl_allocate(std::size_t size, const char *, int) { return allocate(size); }
void *openssl_reallocate(void *block, std::size_t size, const char *, int) {
  if (size == 0) {
    release(block);
    return nullptr;
  }
  return reallocate(block, size);
}
void openssl_release(void *block, const char *, int) { release(block); }

}  // namespace

void *allocate(std::size_t size) noexcept {
  void *block = size > kLargest ? allocate_large(size) : allocate_small(size);
  if (block == nullptr) identity::note_refused_allocation();
  return block;
}

void *allocate_aligned(std::size_t size, std::size_t alignment) noexcept {
  // A power of two's class is aligned to its own size: spans and the header are pages.
  if (alignment <= 16) return allocate(size);
  if (size < alignment) size = alignment;
  return allocate(size > kLargest ? size : std::bit_ceil(size));
}

void *reallocate(void *block, std::size_t size) noexcept {
  if (block == nullptr) return allocate(size);
  std::size_t room = room_of(block);
  if (size <= room && size > room / 4) return block;
  void *moved = allocate(size);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, block, size < room ? size : room);
  release(block);
  return moved;
}

void release(void *block) noexcept {
  if (block == nullptr) return;
  Chunk *chunk = chunk_of(block);
  if (chunk->mapped != 0) {
    kernel::call(SYS_munmap, kernel::word(chunk), static_cast<long>(chunk->mapped));
    return;
  }
  auto offset =
      static_cast<std::size_t>(static_cast<char *>(block) - reinterpret_cast<char *>(chunk));
  std::size_t index = chunk->span_class[offset / kSpanSize];
  auto *entry = static_cast<Free *>(block);
  g_heap.lock.acquire();
  entry->next = g_heap.free[index];
  g_heap.free[index] = entry;
  g_heap.lock.release();
}

void give_heap_to_openssl() noexcept {
  CRYPTO_set_mem_functions(openssl_allocate, openssl_reallocate, openssl_release);
}

void heap_before_fork() noexcept { g_heap.lock.acquire(); }
void heap_after_fork() noexcept { g_heap.lock.release(); }

}  // namespace inlay::shim::boot
