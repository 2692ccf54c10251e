#include "shim/session/program_memory.h"

#include <cerrno>
#include <cstring>

#include "shim/arena/kernel.h"
#include "shim/boot/sandbox.h"

namespace inlay::shim {
namespace {

// What a caller has on its stack just above is surely there: no system call for the common case.
bool is_on_the_stack(const void *from, std::size_t length) noexcept {
  constexpr std::size_t kNear = 4096;
  auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  auto at = reinterpret_cast<std::uintptr_t>(from);
  return at >= here && at - here < kNear && length <= kNear - (at - here);
}

}  // namespace

std::size_t copy_in(void *to, const void *from, std::size_t length) noexcept {
  if (!is_on_the_stack(from, length) && !boot::sandboxed()) {
    iovec here{to, length}, there{const_cast<void *>(from), length};
    long got = kernel::call(SYS_process_vm_readv, kernel::process_id(), kernel::word(&here), 1,
                            kernel::word(&there), 1, 0);
    if (got >= 0) return static_cast<std::size_t>(got);
    if (got == -EFAULT) return 0;
    // The call is not to be had: as good as the program's word.
  }
  std::memcpy(to, from, length);
  return length;
}

bool is_unmapped(const void *from) noexcept {
  char byte;
  iovec here{&byte, 1}, there{const_cast<void *>(from), 1};
  return !boot::sandboxed() &&
         kernel::call(SYS_process_vm_readv, kernel::process_id(), kernel::word(&here), 1,
                      kernel::word(&there), 1, 0) == -EFAULT;
}

}  // namespace inlay::shim
