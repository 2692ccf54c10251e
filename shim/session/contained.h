// What the hooks do for a process under the filter of `inlay run --strict`: TCP sockets are made, and
// connections accepted, from the gate page, since the kernel takes these calls from nowhere else.
//
// connect() is not filtered. A filter sees neither the address nor what kind of socket the number is,
// and the C library connects the sockets of its resolver, of syslog and of its name service cache
// with an instruction of its own, at an address no filter can know. A program that has its socket
// from a hook and connects it past the hooks is found out by the next hook that meets the socket
// (kSocket in arena/descriptors.h); one that writes past the hooks as well is not. Holding such a
// socket back in the kernel (SO_ATTACH_FILTER) takes privileges on TCP sockets of Linux 6.18.
#pragma once

namespace inlay::shim {

// Replaces the next symbols of socket, accept and accept4 with calls from the gate page, which must
// be open. Another preload's hooks of these are passed over. At boot.
void pass_through_gate() noexcept;

}  // namespace inlay::shim
