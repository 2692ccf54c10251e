#include "shim/arena/slot.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <fstream>
#include <string>
#include <thread>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/session/local.h"
#include "shim/session/under_way.h"

using namespace inlay::shim;

namespace {

Slot *fresh() {
  static std::uint64_t cookie = std::uint64_t{1} << 40;
  return allocate_slot(++cookie, State::established);
}

// Whether a thread of this process waits in the kernel.
bool is_asleep(pid_t thread) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string line;
  std::getline(stat, line);
  const std::size_t end = line.rfind(") ");
  return end != std::string::npos && line[end + 2] == 'S';
}

// As a signal's handler, further down the stack than what it interrupted.
[[gnu::noinline]] void free_deeper(Slot &slot) {
  volatile char room[256] = {};
  free_slot(slot);
  CHECK(room[0] == 0);
}

}  // namespace

TEST_CASE("a slot's next use waits for a helper that comes late to its last one") {
  Slot *slot = fresh();
  REQUIRE(slot != nullptr);
  local(*slot).descriptor = 8;
  free_slot(*slot);
  std::atomic<pid_t> user{0};
  std::atomic<bool> is_used{false};
  Locked late(slot->life_lock);
  std::thread next([&] {
    user = gettid();
    Slot *again = fresh();
    is_used = true;
    if (again != nullptr) free_slot(*again);
  });
  while (!is_used && (user == 0 || !is_asleep(user))) std::this_thread::yield();
  CHECK(local(*slot).descriptor == 8);
  CHECK(slot->cookie == 0);
  late.unlock();
  next.join();
  CHECK(local(*slot).descriptor == 0);
}

// A call that slept meanwhile, or was about to begin: what it was made on is over, though number
// and slot are the same.
TEST_CASE(
    "a call is on the session it was made on, not on the next one at its number and in its slot") {
  REQUIRE((g_descriptor_words != nullptr || make_descriptor_table()));
  constexpr int kNumber = 5;
  Slot &slot = *fresh();
  set_descriptor_word(kNumber, managed_word(&slot));
  const UnderWay call(slot, kNumber);
  CHECK(names(slot, call));
  free_slot(slot);
  Slot &next = *fresh();
  REQUIRE(&next == &slot);
  CHECK(descriptor_word(kNumber) == managed_word(&next));
  CHECK_FALSE(names(next, call));
  CHECK(names(next, UnderWay(next, kNumber)));
  set_descriptor_word(kNumber, kUnknown);
  free_slot(next);
}

TEST_CASE("a slot is free when nobody is at work on its records any more") {
  for (SharedLock Slot::*lock : {&Slot::receive_lock, &Slot::send_lock}) {
    Slot &slot = *fresh();
    inlay::tls::TrafficState &traffic =
        lock == &Slot::send_lock ? slot.sending.traffic : slot.receiving.traffic;
    traffic.sequence = 7;
    std::atomic<pid_t> thread{0};
    std::atomic<bool> is_closed{false};
    std::thread closer;
    {
      Locked at_work(slot.*lock);
      closer = std::thread([&] {
        thread = gettid();
        free_slot(slot);
        is_closed = true;
      });
      while (!is_closed && (thread == 0 || !is_asleep(thread))) std::this_thread::yield();
      CHECK(traffic.sequence == 7);
    }
    closer.join();
    CHECK(traffic.sequence == 0);
  }
}

TEST_CASE(
    "a signal's handler that ends what its thread is at work on leaves the keys, and the slot is "
    "lost") {
  for (SharedLock Slot::*lock : {&Slot::receive_lock, &Slot::send_lock}) {
    Slot &slot = *fresh();
    slot.receiving.traffic.sequence = slot.sending.traffic.sequence = 7;
    Locked at_work(slot.*lock);
    free_deeper(slot);
    CHECK(find_slot(slot.cookie) == nullptr);
    CHECK(slot.sending.traffic.sequence == 7);
    if (lock == &Slot::receive_lock) CHECK(slot.receiving.traffic.sequence == 7);
    CHECK(slot.state.load() != State::free);
    Slot *next = fresh();
    CHECK(next != &slot);
    free_slot(*next);
  }
}
