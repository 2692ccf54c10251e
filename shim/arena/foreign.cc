// What other processes wrote into an arena, and whether to believe it.
#include <sys/mman.h>

#include <algorithm>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/layout.h"
#include "shim/arena/shared_memory.h"

namespace inlay::shim {
namespace {

bool read_at(int fd, std::size_t at, void *bytes, std::size_t length) noexcept {
  return kernel::call(SYS_pread64, fd, kernel::word(bytes), static_cast<long>(length),
                      static_cast<long>(at)) == static_cast<long>(length);
}

bool is_chunk(std::uint32_t number) noexcept {
  return number == kNoChunk || number < kChunksPerArena;
}
bool is_queue(const Queue &queue) noexcept { return is_chunk(queue.first) && is_chunk(queue.last); }

}  // namespace

std::uint32_t effective_uid() noexcept {
  return static_cast<std::uint32_t>(kernel::call(SYS_geteuid));
}

bool is_of_this_build(const Header &header) noexcept {
  return header.magic == kArenaMagic && header.version == kArenaVersion &&
         header.slot_size == sizeof(Slot) && header.uid == effective_uid();
}

bool is_arena_with(int fd, std::uint64_t cookie, std::uint64_t *inode) noexcept {
  if (cookie == 0 || !is_shared_memory(fd, kArenaSize, inode)) return false;
  alignas(Header) std::byte bytes[sizeof(Header)];
  if (!read_at(fd, 0, bytes, sizeof bytes)) return false;
  const auto &header = *reinterpret_cast<const Header *>(bytes);
  if (!is_of_this_build(header)) return false;
  std::size_t used = std::min(header.high_water.load(std::memory_order_relaxed), kSlotsPerArena);
  std::uint64_t cookies[64];
  for (std::size_t first = 0; first < used; first += std::size(cookies)) {
    std::size_t at = kCookiesAt + first * sizeof cookie;
    if (!read_at(fd, at, cookies, sizeof cookies)) return false;
    if (std::find(cookies, std::end(cookies), cookie) != std::end(cookies)) return true;
  }
  return false;
}

bool is_sound(const Slot &slot) noexcept {
  const Receiving &rx = slot.receiving;
  bool directed =
      slot.direction == policy::Direction::inbound || slot.direction == policy::Direction::outbound;
  return directed && is_chunk(rx.head_chunk) && rx.head_length <= tls::kMaxRecord &&
         (rx.head_length == 0 || rx.head_chunk != kNoChunk) && rx.taken <= tls::kMaxCiphertext &&
         rx.post_handshake.header_length <= sizeof rx.post_handshake.header &&
         slot.peer_id[sizeof slot.peer_id - 1] == '\0' && is_queue(slot.sending.early) &&
         is_queue(slot.sending.tail);
}

}  // namespace inlay::shim
