// Which epoll sets of the program hold a session's descriptor. Event loops add and remove
// descriptors several times for one request, so remembering must cost next to nothing: no system
// call and no lock once a set is known.
#include <sys/epoll.h>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/leaving.h"
#include "shim/session/lifetime.h"
#include "shim/session/local.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

// A place holds the set's descriptor plus one, 0 when it is empty. A set that the descriptor was
// removed from keeps its place, marked, until another set needs it: it will most likely be back,
// and to remove it once more from a set that does not hold it is harmless.
constexpr std::uint32_t kRemoved = 0x80000000u;

void added(Local &mine, std::uint32_t entry) noexcept {
  for (std::atomic<std::uint32_t> &watch : mine.watches) {
    std::uint32_t seen = watch.load(std::memory_order_relaxed);
    if (seen == entry) return;
    if (seen == (entry | kRemoved) &&
        watch.compare_exchange_strong(seen, entry, std::memory_order_relaxed)) {
      return;
    }
  }
  // A vfork child's sets are not its parent's, the memory is.
  if (in_foreign_process()) return;
  for (std::atomic<std::uint32_t> &watch : mine.watches) {
    std::uint32_t seen = watch.load(std::memory_order_relaxed);
    if ((seen == 0 || (seen & kRemoved) != 0) &&
        watch.compare_exchange_strong(seen, entry, std::memory_order_relaxed)) {
      return;
    }
  }
}

void removed(Local &mine, std::uint32_t entry) noexcept {
  for (std::atomic<std::uint32_t> &watch : mine.watches) {
    std::uint32_t seen = entry;
    if (watch.load(std::memory_order_relaxed) == entry) {
      watch.compare_exchange_strong(seen, entry | kRemoved, std::memory_order_relaxed);
    }
  }
}

}  // namespace

void watched(Slot &slot, int epoll, int operation) noexcept {
  if (is_closing(slot)) return;
  const std::uint32_t entry = static_cast<std::uint32_t>(epoll) + 1;
  if (operation == EPOLL_CTL_ADD) added(local(slot), entry);
  if (operation == EPOLL_CTL_DEL) removed(local(slot), entry);
}

void leave_watches(Local &mine, int fd) noexcept {
  for (std::atomic<std::uint32_t> &watch : mine.watches) {
    std::uint32_t entry = watch.exchange(0, std::memory_order_relaxed) & ~kRemoved;
    if (entry != 0) kernel::call(SYS_epoll_ctl, entry - 1, EPOLL_CTL_DEL, fd, 0);
  }
}

}  // namespace inlay::shim
