// What a message on its way out carries, read before the kernel has: the program may have given any
// address, and the kernel's answer to a bad one is EFAULT, not a signal.
#pragma once

#include <sys/socket.h>

namespace inlay::shim {

// Whether the message, or one of them, has control data; false where that cannot be read.
bool has_control(const msghdr *message) noexcept;
bool has_control(const mmsghdr *messages, unsigned count) noexcept;
// Calls visit(fd) for each descriptor the message carries.
void for_each_outgoing(const msghdr *message, void (*visit)(int fd)) noexcept;

}  // namespace inlay::shim
