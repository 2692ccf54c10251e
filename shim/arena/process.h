// Which process this is, known without a system call and right after every kind of fork: the record
// lives in a page the kernel wipes in children (MADV_WIPEONFORK).
#pragma once

#include <cstdint>

#include "shim/arena/participant.h"

namespace inlay::shim {

// This process's pid, from the page; re-read when a fork wiped it. A vfork child sees its parent's.
std::uint32_t process_id() noexcept;
// This process, and this thread of it, as they are named in shared memory. Cached as the above.
Participant this_process() noexcept;
Participant this_thread() noexcept;
// Asked of the kernel: in a vfork child, which sees its parent's above.
Participant calling_process() noexcept;
// Grows with every fork on the way from the first process to this one.
std::uint32_t fork_epoch() noexcept;
// Maps the page. False when the kernel refuses.
bool make_process_page() noexcept;
// True in a vfork child (or a raw clone that shares memory): the memory is another process's. One
// system call.
bool in_foreign_process() noexcept;

}  // namespace inlay::shim
