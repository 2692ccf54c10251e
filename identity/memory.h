// Whether memory ran out meanwhile. OpenSSL says so of some failed allocations only: others make it
// take an extension for missing, a certificate for malformed, a signature for bad. Whoever judges
// by what it says asks here as well.
#pragma once

#include <cstdint>

namespace inlay::identity {

// Called by an allocator for a request of this thread that it does not serve. Without one that
// calls it, memory never runs out.
void note_refused_allocation() noexcept;

class MemoryWatch {
 public:
  MemoryWatch() noexcept;
  // Since this was made, on this thread.
  bool ran_out() const noexcept;

 private:
  std::uint64_t before_;
};

}  // namespace inlay::identity
