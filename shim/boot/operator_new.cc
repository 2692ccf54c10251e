// operator new and delete of libinlay.so: inlay's heap, not the host's. Local to the library; the
// export map keeps them so.

#include <new>

#include "shim/boot/heap.h"

namespace boot = inlay::shim::boot;

namespace {

void *or_throw(void *block) {
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

}  // namespace

void *operator new(std::size_t size) { return or_throw(boot::allocate(size)); }
void *operator new[](std::size_t size) { return or_throw(boot::allocate(size)); }
void *operator new(std::size_t size, const std::nothrow_t &) noexcept {
  return boot::allocate(size);
}
void *operator new[](std::size_t size, const std::nothrow_t &) noexcept {
  return boot::allocate(size);
}
void *operator new(std::size_t size, std::align_val_t alignment) {
  return or_throw(boot::allocate_aligned(size, static_cast<std::size_t>(alignment)));
}
void *operator new[](std::size_t size, std::align_val_t alignment) {
  return or_throw(boot::allocate_aligned(size, static_cast<std::size_t>(alignment)));
}
void operator delete(void *block) noexcept { boot::release(block); }
void operator delete[](void *block) noexcept { boot::release(block); }
void operator delete(void *block, std::size_t) noexcept { boot::release(block); }
void operator delete[](void *block, std::size_t) noexcept { boot::release(block); }
void operator delete(void *block, std::align_val_t) noexcept { boot::release(block); }
void operator delete[](void *block, std::align_val_t) noexcept { boot::release(block); }
void operator delete(void *block, std::size_t, std::align_val_t) noexcept { boot::release(block); }
void operator delete[](void *block, std::size_t, std::align_val_t) noexcept {
  boot::release(block);
}
