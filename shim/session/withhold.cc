#include "shim/session/withhold.h"

#include <fcntl.h>

#include <algorithm>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/session/hand_over.h"
#include "shim/session/internal.h"
#include "shim/session/open_descriptors.h"
#include "shim/session/spawn_actions.h"

namespace inlay::shim {

// A vfork child's words are its parent's.
bool is_protected(int fd) noexcept {
  std::uint64_t word = in_foreign_process() ? kUnknown : descriptor_word(fd);
  if ((word & kManagedBit) != 0) return true;
  if (word == kUnmanaged || word == kOwn) return false;
  return session_of(fd) != nullptr || (word != kPlain && !may_be_in_the_clear(fd));
}

void Withhold::mark() noexcept {
  for_each_open_descriptor([this](int fd) {
    if (!survives_exec(fd) || !is_protected(fd)) return;
    kernel::call(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
    if (count_ < kRemembered) marked_[count_++] = fd;
  });
}

void Withhold::cover_standard_streams() noexcept {
  int pair[2] = {-1, -1};
  for (unsigned i = 0; i < count_; ++i) {
    if (marked_[i] > 2) continue;
    if (pair[0] < 0 && kernel::call(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0,
                                    kernel::word(pair)) != 0) {
      return;
    }
    kernel::shut_down(pair[0], SHUT_RDWR);
    cover(marked_[i], pair[0]);
  }
  for (int end : pair) {
    if (end >= 0) kernel::close(end);
  }
}

void Withhold::cover_standard_streams(int end) noexcept {
  for (unsigned i = 0; i < count_; ++i) {
    if (marked_[i] <= 2) cover(marked_[i], end);
  }
}

void Withhold::cover(int fd, int with) noexcept {
  covered_[fd] = static_cast<int>(kernel::call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3));
  if (covered_[fd] >= 0) kernel::call(SYS_dup3, with, fd, 0);
}

bool Withhold::allows(const posix_spawn_file_actions_t *actions) noexcept {
  bool allowed = true;
  for_each_dup2(actions, [&](int fd, int) { allowed = allowed && !is_protected(fd); });
  return allowed;
}

Withhold::~Withhold() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (covered_[fd] < 0) continue;
    kernel::call(SYS_dup3, covered_[fd], fd, 0);
    kernel::close(covered_[fd]);
  }
  for (unsigned i = 0; i < count_; ++i) kernel::call(SYS_fcntl, marked_[i], F_SETFD, 0);
}

}  // namespace inlay::shim
