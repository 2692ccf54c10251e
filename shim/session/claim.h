// A descriptor number becomes a session's: the C library's streams there are in the way.
#pragma once

#include <unistd.h>

#include "shim/arena/process.h"
#include "shim/boot/plain_streams.h"
#include "shim/boot/streams.h"

namespace inlay::shim {

// Before the number has the session, and with no lock held. A vfork child's streams are its parent's.
inline void claim_number(int fd) noexcept {
  if (in_foreign_process()) return;
  boot::withdraw_streams(fd);
  if (fd <= STDERR_FILENO) boot::refresh_standard_stream(fd);
}

// After: who closed the number just before may have given the streams back meanwhile.
inline void withdraw_again(int fd) noexcept {
  if (!in_foreign_process()) boot::withdraw_streams(fd);
}

}  // namespace inlay::shim
