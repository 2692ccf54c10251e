#include "shim/arena/process.h"

#include <sys/mman.h>

#include <atomic>

#include "shim/arena/kernel.h"
#include "shim/arena/lock.h"
#include "shim/boot/sandbox.h"

namespace inlay::shim {
namespace {

struct Page {
  std::atomic<Participant> self;
};

Page *g_page = nullptr;
std::atomic<std::uint32_t> g_fork_epoch{1};

// The cache is valid while it was filled in this fork epoch, and on this part of the stack: threads
// made by clone(2) alone have what is thread-local of who made them, and a stack of their own.
constexpr unsigned kStackPart = 14;  // no stack is smaller than 16 KiB
// One for each of two neighbouring parts: a program may call from just above and just below a border in turns.
struct Cache {
  std::atomic<std::uintptr_t> where{0};
  std::atomic<std::uint32_t> epoch{0};
  std::atomic<Participant> self{0};
};
constinit thread_local Cache t_thread[2] __attribute__((tls_model("initial-exec")));

// The last namespace this process, or the one it was forked from, was in.
std::atomic<std::uint64_t> g_namespace{0};

std::uint64_t current_namespace() noexcept {
  std::uint64_t before = g_namespace.load(std::memory_order_relaxed);
  if (boot::sandboxed()) return before;
  // Without /proc: a child whose parent is out of sight has just entered another one.
  bool same = before != 0 && kernel::call(SYS_getppid) != 0;
  return read_namespace(same ? before : unknown_namespace());
}

Participant refill() noexcept {
  // A fork wiped the page: whatever was cached belongs to the parent.
  g_fork_epoch.fetch_add(1, std::memory_order_relaxed);
  std::uint64_t space = current_namespace();
  g_namespace.store(space, std::memory_order_relaxed);
  Participant self = participant(space, static_cast<std::uint32_t>(kernel::process_id()));
  g_page->self.store(self, std::memory_order_release);
  return self;
}

}  // namespace

bool make_process_page() noexcept {
  long page =
      kernel::call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page < 0) return false;
  if (kernel::call(SYS_madvise, page, 4096, MADV_WIPEONFORK) != 0) {
    kernel::call(SYS_munmap, page, 4096);
    return false;
  }
  g_page = reinterpret_cast<Page *>(page);
  refill();
  return true;
}

Participant this_process() noexcept {
  if (g_page == nullptr) return participant(0, static_cast<std::uint32_t>(kernel::process_id()));
  Participant self = g_page->self.load(std::memory_order_acquire);
  return self != 0 ? self : refill();
}

Participant this_thread() noexcept {
  const std::uint32_t epoch = fork_epoch();
  const std::uintptr_t where =
      (reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)) >> kStackPart) + 1;
  Cache &cached = t_thread[where % 2];
  if (cached.where.load(std::memory_order_acquire) == where &&
      cached.epoch.load(std::memory_order_relaxed) == epoch) {
    Participant self = cached.self.load(std::memory_order_acquire);
    if (cached.where.load(std::memory_order_relaxed) == where) return self;
  }
  Participant self =
      this_process() | participant(0, 0, static_cast<std::uint32_t>(kernel::thread_id()));
  cached.where.store(0, std::memory_order_relaxed);
  cached.self.store(self, std::memory_order_release);
  cached.epoch.store(epoch, std::memory_order_relaxed);
  cached.where.store(where, std::memory_order_release);
  return self;
}

Participant calling_process() noexcept {
  return participant(current_namespace(), static_cast<std::uint32_t>(kernel::process_id()));
}

std::uint32_t process_id() noexcept { return process_of(this_process()); }

std::uint32_t fork_epoch() noexcept {
  this_process();
  return g_fork_epoch.load(std::memory_order_relaxed);
}

bool in_foreign_process() noexcept {
  return process_id() != static_cast<std::uint32_t>(kernel::process_id());
}

std::uint32_t current_thread_id() noexcept { return thread_of(this_thread()); }

}  // namespace inlay::shim
