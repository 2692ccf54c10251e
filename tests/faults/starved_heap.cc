// The heap of libinlay.so, of which some requests are not served. What the library asks for,
// OpenSSL in it too, is counted; the file that INLAY_STARVED names says which requests fail.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

// The heap as it is, under other names.
#define allocate served
#define allocate_aligned served_aligned
#define reallocate served_again
#define give_heap_to_openssl give_served_heap_to_openssl
#include "shim/boot/heap.cc"
#undef allocate
#undef allocate_aligned
#undef reallocate
#undef give_heap_to_openssl

namespace inlay::shim::boot {

void *allocate(std::size_t size) noexcept;
void *allocate_aligned(std::size_t size, std::size_t alignment) noexcept;
void *reallocate(void *block, std::size_t size) noexcept;
void give_heap_to_openssl() noexcept;

namespace {

// In the file, shared by all processes that were told of it; written by failed_allocations_test.py.
struct Diet {
  std::uint64_t first, last;  // the requests that fail, counted from 1
  std::atomic<std::uint64_t> asked;
};

constinit std::atomic<Diet *> g_diet{nullptr};
constinit Diet g_none{0, 0, {}};  // nothing fails

constexpr char kName[] = "INLAY_STARVED=";

// Too early for the C library's environ, and for its open(), which is a hook of this library.
Diet *read_diet() noexcept {
  static char environment[64 << 10];
  long fd = kernel::call(SYS_openat, AT_FDCWD, kernel::word("/proc/self/environ"), O_RDONLY);
  if (fd < 0) return &g_none;
  std::size_t length = 0;
  for (long got = 1; got > 0 && length < sizeof environment - 1;) {
    got = kernel::call(SYS_read, fd, kernel::word(environment + length),
                       static_cast<long>(sizeof environment - 1 - length));
    if (got > 0) length += static_cast<std::size_t>(got);
  }
  kernel::call(SYS_close, fd);
  for (char *entry = environment; entry < environment + length; entry += std::strlen(entry) + 1) {
    if (std::strncmp(entry, kName, sizeof kName - 1) != 0) continue;
    fd = kernel::call(SYS_openat, AT_FDCWD, kernel::word(entry + sizeof kName - 1), O_RDWR);
    if (fd < 0) return &g_none;
    long at = kernel::call(SYS_mmap, 0, sizeof(Diet), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    kernel::call(SYS_close, fd);
    return at < 0 && at > -4096 ? &g_none : reinterpret_cast<Diet *>(at);
  }
  return &g_none;
}

bool is_refused() noexcept {
  Diet *diet = g_diet.load(std::memory_order_acquire);
  if (diet == nullptr) {  // in the constructor, where there is one thread
    diet = read_diet();
    g_diet.store(diet, std::memory_order_release);
  }
  std::uint64_t number = diet->asked.fetch_add(1, std::memory_order_relaxed) + 1;
  return number >= diet->first && number <= diet->last;
}

void *refuse() noexcept {
  identity::note_refused_allocation();
  return nullptr;
}

void *openssl_asks(std::size_t size, const char *, int) { return allocate(size); }
void *openssl_asks_again(void *block, std::size_t size, const char *, int) {
  if (size == 0) {
    release(block);
    return nullptr;
  }
  return reallocate(block, size);
}

}  // namespace

void *allocate(std::size_t size) noexcept { return is_refused() ? refuse() : served(size); }
void *allocate_aligned(std::size_t size, std::size_t alignment) noexcept {
  return is_refused() ? refuse() : served_aligned(size, alignment);
}
void *reallocate(void *block, std::size_t size) noexcept {
  return is_refused() ? refuse() : served_again(block, size);
}
void give_heap_to_openssl() noexcept {
  CRYPTO_set_mem_functions(openssl_asks, openssl_asks_again, openssl_release);
}

}  // namespace inlay::shim::boot
