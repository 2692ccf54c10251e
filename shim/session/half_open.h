// Inbound handshakes that are not finished, oldest first: over the bound the oldest makes room. A list
// through the tasks themselves; no allocation, nothing to search. The helper thread only.
#pragma once

#include <cstddef>

namespace inlay::shim {

// What is in the list; a task is one.
struct HalfOpenEntry {
  HalfOpenEntry *older = nullptr;
  HalfOpenEntry *newer = nullptr;
  bool counted = false;
};

class HalfOpen {
 public:
  std::size_t size() const noexcept { return size_; }
  HalfOpenEntry *oldest() const noexcept { return oldest_; }
  // As the newest, unless it is in the list already.
  void add(HalfOpenEntry &entry) noexcept {
    if (entry.counted) return;
    entry.counted = true;
    entry.older = newest_;
    entry.newer = nullptr;
    (newest_ != nullptr ? newest_->newer : oldest_) = &entry;
    newest_ = &entry;
    ++size_;
  }
  // Nothing when it is not in the list.
  void remove(HalfOpenEntry &entry) noexcept {
    if (!entry.counted) return;
    entry.counted = false;
    (entry.older != nullptr ? entry.older->newer : oldest_) = entry.newer;
    (entry.newer != nullptr ? entry.newer->older : newest_) = entry.older;
    entry.older = nullptr;
    entry.newer = nullptr;
    --size_;
  }
  // In a forked child: the entries are the parent's.
  void forget() noexcept { *this = HalfOpen{}; }

 private:
  HalfOpenEntry *oldest_ = nullptr;
  HalfOpenEntry *newest_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace inlay::shim
