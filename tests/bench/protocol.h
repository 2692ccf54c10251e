// What the bench's client and server agree on.
#pragma once

#include <cstddef>

namespace inlay::bench {

// Ping-pong and idle: messages of 64 bytes, echoed.
inline constexpr std::size_t kPing = 64;

// Bulk: blocks of 64 KiB. The first byte of a block is 0, or 1 in the last block; the server then
// answers with the number of bytes it got, eight of them in host order.
inline constexpr std::size_t kBlock = 65536;

}  // namespace inlay::bench
