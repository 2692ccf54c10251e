#include "identity/memory.h"

namespace inlay::identity {
namespace {

// Never allocated on first use: that is when there is no memory.
[[gnu::tls_model("initial-exec")]] constinit thread_local std::uint64_t t_refused = 0;

}  // namespace

void note_refused_allocation() noexcept { ++t_refused; }

MemoryWatch::MemoryWatch() noexcept : before_(t_refused) {}
bool MemoryWatch::ran_out() const noexcept { return t_refused != before_; }

}  // namespace inlay::identity
