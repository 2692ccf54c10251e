#include <atomic>

#include <sys/mman.h>

#include "shim/arena/kernel.h"
#include "shim/session/internal.h"

namespace inlay::shim {
namespace {

constexpr std::size_t kPooled = 16;
constexpr std::size_t kMapped = (sizeof(Scratch) + 4095) & ~std::size_t{4095};

std::atomic<Scratch *> g_pool[kPooled];

}  // namespace

BorrowedScratch::BorrowedScratch() noexcept : scratch_(nullptr) {
  for (std::atomic<Scratch *> &place : g_pool) {
    if (place.load(std::memory_order_relaxed) == nullptr) continue;
    scratch_ = place.exchange(nullptr, std::memory_order_acquire);
    if (scratch_ != nullptr) return;
  }
  long mapped = kernel::call(SYS_mmap, 0, kMapped, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped > 0 || mapped < -4095) {
    scratch_ = reinterpret_cast<Scratch *>(mapped);
    kernel::call(SYS_madvise, mapped, kMapped, MADV_DONTDUMP);
  }
}

BorrowedScratch::~BorrowedScratch() {
  if (scratch_ == nullptr) return;
  for (std::atomic<Scratch *> &place : g_pool) {
    Scratch *empty = nullptr;
    if (place.compare_exchange_strong(empty, scratch_, std::memory_order_release,
                                      std::memory_order_relaxed)) {
      return;
    }
  }
  kernel::call(SYS_munmap, kernel::word(scratch_), kMapped);
}

}  // namespace inlay::shim
