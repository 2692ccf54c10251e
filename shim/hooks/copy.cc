// sendfile and splice. copy_file_range, tee and vmsplice need no hook: the kernel refuses sockets
// there (EINVAL, EINVAL, EBADF), which tests/unit/shim holds.

#include "shim/hooks/hook.h"

using namespace inlay::shim;

extern "C" {

ssize_t sendfile64(int to, int from, off64_t *offset, size_t count) noexcept {
  if (Slot *slot = session_for_data(to)) return send_file(*slot, to, from, offset, count);
  // Into a pipe the kernel would hand out records as they are on the wire.
  if (Slot *slot = managed(from)) {
    note_unsupported(*slot, from, "sendfile");
    return fail(EINVAL);
  }
  return next.sendfile64(to, from, offset, count);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t count) noexcept {
  static_assert(sizeof(off_t) == sizeof(off64_t));
  return sendfile64(to, from, offset, count);
}

ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t count,
               unsigned int flags) {
  Slot *slot = managed(from);
  int fd = from;
  if (slot == nullptr) slot = managed(fd = to);
  if (slot != nullptr) {
    note_unsupported(*slot, fd, "splice");
    return fail(EINVAL);
  }
  return next.splice(from, from_offset, to, to_offset, count, flags);
}

}  // extern "C"
