#include "identity/agent/spare_descriptors.h"

#include <fcntl.h>

#include <algorithm>
#include <array>

namespace inlay::identity::agent {
namespace {

// The connection, its writer's pidfd, /proc/PID, two looks at the executable, its hash, the answer.
constexpr std::size_t kOfANewcomer = 8;

}  // namespace

policy::UniqueFd spare_descriptor() noexcept {
  return policy::UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

bool is_room_for_a_newcomer() noexcept {
  std::array<policy::UniqueFd, kOfANewcomer> room;
  return std::ranges::all_of(room, [](policy::UniqueFd &fd) {
    fd = spare_descriptor();
    return static_cast<bool>(fd);
  });
}

}  // namespace inlay::identity::agent
