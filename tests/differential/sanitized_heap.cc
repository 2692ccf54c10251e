// The shim's heap in the sanitized program: the sanitizer's own, which sees what goes past the end
// of a block, and what is used after its release, OpenSSL's too.
#include <algorithm>
#include <cstdlib>

#include "identity/memory.h"
#include "shim/boot/heap.h"

namespace inlay::shim::boot {
namespace {

void *served(void *block) noexcept {
  if (block == nullptr) identity::note_refused_allocation();
  return block;
}

}  // namespace

void *allocate(std::size_t size) noexcept {
  return served(std::malloc(std::max<std::size_t>(size, 1)));
}
void *allocate_aligned(std::size_t size, std::size_t alignment) noexcept {
  return served(std::aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1)));
}
void *reallocate(void *block, std::size_t size) noexcept {
  return served(std::realloc(block, size));
}
void release(void *block) noexcept { std::free(block); }

void give_heap_to_openssl() noexcept {}  // it has malloc()

void heap_before_fork() noexcept {}
void heap_after_fork() noexcept {}

}  // namespace inlay::shim::boot
