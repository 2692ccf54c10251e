#include "shim/session/holders.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/session/helper.h"
#include "shim/session/proc.h"

namespace inlay::shim {
namespace {

// How long one may be on its way.
constexpr std::int64_t kUnbornNs = 60'000'000'000;

// A dead process holds nothing; a zombie is dead too.
bool holds(const Slot &slot, Participant who) noexcept {
  Life life = life_of(&slot, who);
  if (life != Life::unclear) return life == Life::alive;
  const std::uint32_t number = thread_of(who) != 0 ? thread_of(who) : process_of(who);
  ProcPath path;
  path.before("/stat").before(number).before("/proc/");
  char stat[512];
  long got = read_proc(path, stat);
  if (got <= 0) return true;
  // "pid (name) S ...": the name may hold anything, the state follows the last parenthesis.
  for (long i = got - 3; i > 0; --i) {
    if (stat[i] == ')') return stat[i + 2] != 'Z' && stat[i + 2] != 'X';
  }
  return true;
}

}  // namespace

Holder *find_holder(Slot &slot, Participant who) noexcept {
  for (Holder &holder : slot.holders) {
    if (holder.who.load(std::memory_order_acquire) == who) return &holder;
  }
  return nullptr;
}

void add_descriptor(Slot &slot, Participant who) noexcept {
  if (Holder *holder = find_holder(slot, who)) {
    holder->descriptors.fetch_add(1, std::memory_order_acq_rel);
    return;
  }
  for (Holder &holder : slot.holders) {
    Participant before = holder.who.load(std::memory_order_acquire);
    if (before != 0 && holds(slot, before)) continue;
    if (holder.who.compare_exchange_strong(before, who, std::memory_order_acq_rel)) {
      holder.descriptors.store(1, std::memory_order_release);
      return;
    }
  }
}

void expect_holder(Slot &slot) noexcept {
  slot.unborn_since_ns.store(monotonic_ns(), std::memory_order_relaxed);
  slot.unborn.fetch_add(1, std::memory_order_acq_rel);
}

void expected_holder_came(Slot &slot) noexcept {
  std::int32_t expected = slot.unborn.load(std::memory_order_relaxed);
  while (expected > 0 && !slot.unborn.compare_exchange_weak(expected, expected - 1)) {
  }
}

bool held_elsewhere(Slot &slot) noexcept {
  if (slot.unborn.load(std::memory_order_acquire) > 0 &&
      monotonic_ns() - slot.unborn_since_ns.load(std::memory_order_relaxed) < kUnbornNs) {
    return true;
  }
  Participant me = this_process();
  for (Holder &holder : slot.holders) {
    Participant who = holder.who.load(std::memory_order_acquire);
    if (who != 0 && who != me && holder.descriptors.load(std::memory_order_acquire) > 0 &&
        holds(slot, who)) {
      return true;
    }
  }
  return false;
}

void release_holder(Slot &slot, Participant who) noexcept {
  if (Holder *holder = find_holder(slot, who)) {
    holder->descriptors.store(0, std::memory_order_release);
    holder->who.store(0, std::memory_order_release);
  }
}

}  // namespace inlay::shim
