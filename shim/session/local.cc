#include "shim/session/local.h"

#include <utility>

#include "shim/arena/arena.h"

namespace inlay::shim {

void Local::reset() noexcept {
  open = nullptr;
  opened = nullptr;
  opened_length = 0;
  opened_generation = 0;
  opened_valid = false;
  opened_type = tls::ContentType::invalid;
  opened_sequence = 0;
  seal = nullptr;
  flush_mark = nullptr;
  flush_written = 0;
  flush_length = 0;
  task = nullptr;
  policy = nullptr;
  trust = 0;
  descriptor = 0;
  for (std::atomic<std::uint32_t> &watch : watches) watch.store(0, std::memory_order_relaxed);
  acceptor = 0;
  accepted_cpu_ns = 0;
  accepted_at = 0;
  hidden = false;
  closed = 0;
  closed_ns = 0;
  closed_computed_ns = 0;
  calls.store(0, std::memory_order_relaxed);
  caller.store(0, std::memory_order_relaxed);
  bound = false;
  inherited = false;
  descriptors_before = 0;
  // The inbox's link stays: a slot may be in the inbox when it is freed and used again, and linked a
  // second time it would make a ring of the list. To be looked at once too often is harmless.
  expects_wait.store(false, std::memory_order_relaxed);
}

void drop_opening(Local &mine) noexcept {
  delete std::exchange(mine.open, nullptr);
  delete[] std::exchange(mine.opened, nullptr);
  mine.opened_valid = false;
}

void drop_sealing(Local &mine) noexcept { delete std::exchange(mine.seal, nullptr); }

void drop_local(Slot &slot) noexcept {
  if (Locked guard(slot.receive_lock); !guard.reentered()) drop_opening(local(slot));
  if (Locked guard(slot.send_lock); !guard.reentered()) drop_sealing(local(slot));
}

}  // namespace inlay::shim
