// inlay's own memory, over mmap: used by operator new of libinlay.so and by its OpenSSL. The host's
// malloc may be any allocator, may be mid-call in the thread a hook interrupts, and is not inlay's
// to lock.
//
// Sizes up to 32 KiB come from classes inside 1 MiB chunks and are reused, never returned; larger
// ones are mappings of their own. Thread-safe. Not for signal handlers.
#pragma once

#include <cstddef>

namespace inlay::shim::boot {

// 16-byte aligned; null when the kernel has no memory. A size of 0 is served as 1.
void *allocate(std::size_t size) noexcept;
// `alignment`: a power of two up to 4096.
void *allocate_aligned(std::size_t size, std::size_t alignment) noexcept;
void *reallocate(void *block, std::size_t size) noexcept;
// Null is fine.
void release(void *block) noexcept;

// Gives OpenSSL this heap. Before its first use only.
void give_heap_to_openssl() noexcept;

// Around fork: the child gets a heap nobody was in the middle of changing.
void heap_before_fork() noexcept;
void heap_after_fork() noexcept;

}  // namespace inlay::shim::boot
