// Who writes on a Unix socket, as the kernel says with each message.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <span>

#include "identity/agent/workload.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

// Has the kernel put its writer's credentials, and pidfd where it has them, to each message: on a
// listening socket, for all it accepts, beginning with what was written before. False with errno.
bool pass_credentials(int fd) noexcept;

// Who connected. Needs no descriptor: there may be none.
std::optional<Caller> peer_of(int fd) noexcept;

struct Message {
  ssize_t length = 0;  // 0: the end; -1: errno says why
  // Of one writer always: the kernel does not join what two have written.
  std::optional<Caller> writer;
  policy::UniqueFd pidfd;
  bool foreign = false;  // descriptors came with it, which nobody asked for; they are closed
};
Message receive(int fd, std::span<char> room) noexcept;

}  // namespace inlay::identity::agent
