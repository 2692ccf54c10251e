#include "shim/session/outgoing.h"

#include <algorithm>
#include <cstring>

#include "shim/session/program_memory.h"

namespace inlay::shim {
namespace {

constexpr std::size_t kMostDescriptors = 253;  // in one message (SCM_MAX_FD)

}  // namespace

bool has_control(const msghdr *message) noexcept {
  msghdr copy;
  return message != nullptr && copy_in(&copy, message, sizeof copy) == sizeof copy &&
         copy.msg_control != nullptr && copy.msg_controllen != 0;
}

bool has_control(const mmsghdr *messages, unsigned count) noexcept {
  mmsghdr some[8];
  for (std::size_t first = 0; messages != nullptr && first < count; first += std::size(some)) {
    std::size_t wanted = std::min<std::size_t>(count - first, std::size(some));
    std::size_t got = copy_in(some, messages + first, wanted * sizeof some[0]) / sizeof some[0];
    for (std::size_t i = 0; i < got; ++i) {
      if (some[i].msg_hdr.msg_control != nullptr && some[i].msg_hdr.msg_controllen != 0)
        return true;
    }
    if (got < wanted) return false;
  }
  return false;
}

void for_each_outgoing(const msghdr *message, void (*visit)(int fd)) noexcept {
  msghdr copy;
  if (copy_in(&copy, message, sizeof copy) != sizeof copy || copy.msg_control == nullptr) return;
  const auto *control = static_cast<const std::byte *>(copy.msg_control);
  alignas(cmsghdr) std::byte part[CMSG_SPACE(kMostDescriptors * sizeof(int))];
  for (std::size_t at = 0; at + sizeof(cmsghdr) <= copy.msg_controllen;) {
    std::size_t left = copy.msg_controllen - at;
    std::size_t got = copy_in(part, control + at, std::min(left, sizeof part));
    cmsghdr header;
    if (got < sizeof header) return;
    std::memcpy(&header, part, sizeof header);
    if (header.cmsg_len < CMSG_LEN(0) || header.cmsg_len > left) return;  // EINVAL
    if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_RIGHTS) {
      std::size_t end = std::min<std::size_t>(header.cmsg_len, got);
      for (std::size_t one = CMSG_LEN(0); one + sizeof(int) <= end; one += sizeof(int)) {
        int fd;
        std::memcpy(&fd, part + one, sizeof fd);
        visit(fd);
      }
    }
    at += CMSG_ALIGN(header.cmsg_len);
  }
}

}  // namespace inlay::shim
