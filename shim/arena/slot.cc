#include "shim/arena/slot.h"

#include <cstring>

#include "shim/arena/arena.h"
#include "shim/arena/process.h"
#include "shim/session/local.h"

namespace inlay::shim {

void begin_use(Slot &slot, Local &mine, std::uint64_t cookie, State state) noexcept {
  std::uint32_t generation = slot.generation.load(std::memory_order_relaxed);
  std::uint32_t index = slot.index;
  // The locks outlive the use: a helper that comes late to the slot's last one may hold them.
  auto *bytes = reinterpret_cast<std::byte *>(&slot);
  std::size_t from = 0;
  for (SharedLock *lock : {&slot.life_lock, &slot.receive_lock, &slot.send_lock}) {
    auto at = static_cast<std::size_t>(reinterpret_cast<std::byte *>(lock) - bytes);
    clear_shared(bytes + from, at - from);
    lock->renew();
    from = at + sizeof(SharedLock);
  }
  clear_shared(bytes + from, sizeof(Slot) - from);
  Locked life(slot.life_lock);
  mine.reset();
  slot.index = index;
  slot.generation.store(generation + 1, std::memory_order_relaxed);
  slot.receiving.head_chunk = kNoChunk;
  slot.sending.early = Queue{};
  slot.sending.tail = Queue{};
  slot.rule = policy::kNoRule;
  slot.receive_low_water.store(1, std::memory_order_relaxed);
  slot.peek_offset.store(-1, std::memory_order_relaxed);
  slot.holders[0].descriptors.store(1, std::memory_order_relaxed);
  slot.holders[0].who.store(this_process(), std::memory_order_relaxed);
  slot.state.store(state, std::memory_order_relaxed);
  slot.cookie.store(cookie, std::memory_order_release);
}

bool end_use(Slot &slot) noexcept {
  {
    Locked guard(slot.receive_lock);
    if (guard.reentered()) return false;
    drop_opening(local(slot));
    if (slot.receiving.head_chunk != kNoChunk) return_chunk(slot, slot.receiving.head_chunk);
    std::memset(static_cast<void *>(&slot.receiving.traffic), 0, sizeof(tls::TrafficState));
  }
  Locked guard(slot.send_lock);
  if (guard.reentered()) return false;
  drop_sealing(local(slot));
  queue_clear(slot, slot.sending.early);
  queue_clear(slot, slot.sending.tail);
  std::memset(static_cast<void *>(&slot.sending.traffic), 0, sizeof(tls::TrafficState));
  return true;
}

}  // namespace inlay::shim
