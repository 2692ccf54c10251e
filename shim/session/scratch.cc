#include <algorithm>
#include <atomic>

#include <sys/mman.h>

#include "shim/arena/kernel.h"
#include "shim/session/internal.h"
#include "shim/session/receive.h"

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

QueueView::QueueView(int fd, Scratch &scratch, std::size_t most) noexcept
    : window_(scratch.bytes) {
  std::size_t length = kScratchSize;
  if (most > kScratchSize) {
    length = std::min(most, static_cast<std::size_t>(std::max(queued_bytes(fd), 0L)));
  }
  if (length > kScratchSize) {
    long mapped = kernel::call(SYS_mmap, 0, static_cast<long>(length), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped < 0 && mapped > -4096) {
      length = kScratchSize;
    } else {
      window_ = reinterpret_cast<std::uint8_t *>(mapped);
      mapped_ = length;
    }
  }
  long got = kernel::receive(fd, window_, length, MSG_PEEK | MSG_DONTWAIT);
  length_ = got > 0 ? static_cast<std::size_t>(got) : 0;
}

QueueView::~QueueView() {
  if (mapped_ != 0) kernel::call(SYS_munmap, kernel::word(window_), static_cast<long>(mapped_));
}

}  // namespace inlay::shim
