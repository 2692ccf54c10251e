#include "shim/arena/process.h"

#include <atomic>

#include <sys/mman.h>

#include "shim/arena/lock.h"
#include "shim/arena/kernel.h"

namespace inlay::shim {
namespace {

struct Page {
  std::atomic<std::uint32_t> pid;
};

Page *g_page = nullptr;
std::atomic<std::uint32_t> g_fork_epoch{1};

// The cache is valid while it was filled in this fork epoch.
thread_local std::uint32_t t_thread_id __attribute__((tls_model("initial-exec"))) = 0;
thread_local std::uint32_t t_thread_epoch __attribute__((tls_model("initial-exec"))) = 0;

std::uint32_t refill() noexcept {
  auto pid = static_cast<std::uint32_t>(kernel::process_id());
  // A fork wiped the page: whatever was cached belongs to the parent.
  g_fork_epoch.fetch_add(1, std::memory_order_relaxed);
  g_page->pid.store(pid, std::memory_order_release);
  return pid;
}

}  // namespace

bool make_process_page() noexcept {
  long page = kernel::call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                           -1, 0);
  if (page < 0) return false;
  if (kernel::call(SYS_madvise, page, 4096, MADV_WIPEONFORK) != 0) return false;
  g_page = reinterpret_cast<Page *>(page);
  g_page->pid.store(static_cast<std::uint32_t>(kernel::process_id()), std::memory_order_release);
  return true;
}

std::uint32_t process_id() noexcept {
  if (g_page == nullptr) return static_cast<std::uint32_t>(kernel::process_id());
  std::uint32_t pid = g_page->pid.load(std::memory_order_acquire);
  return pid != 0 ? pid : refill();
}

std::uint32_t fork_epoch() noexcept {
  process_id();
  return g_fork_epoch.load(std::memory_order_relaxed);
}

bool in_foreign_process() noexcept {
  return process_id() != static_cast<std::uint32_t>(kernel::process_id());
}

std::uint32_t current_thread_id() noexcept {
  std::uint32_t epoch = fork_epoch();
  if (t_thread_epoch != epoch) {
    t_thread_id = static_cast<std::uint32_t>(kernel::thread_id());
    t_thread_epoch = epoch;
  }
  return t_thread_id;
}

}  // namespace inlay::shim
