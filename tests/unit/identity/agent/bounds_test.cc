// What keeps one user from keeping others out.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>
#include <string>
#include <vector>

#include "identity/agent/seats.h"
#include "identity/agent/work_queue.h"
#include "identity/rpc/rate_limit.h"

using namespace inlay::identity::agent;
using inlay::identity::rpc::RateLimit;

namespace {
constexpr std::int64_t kSecond = 1'000'000'000;
}

TEST_CASE("whoever fills the seats loses his own oldest one") {
  Seats seats({.waiting = 10, .waiting_of_a_user = 3, .attached = 4, .attached_of_a_user = 2});
  CHECK_FALSE(seats.come(1, 1000).has_value());
  CHECK_FALSE(seats.come(2, 1000).has_value());
  CHECK_FALSE(seats.come(3, 2000).has_value());
  CHECK_FALSE(seats.come(4, 1000).has_value());
  CHECK(seats.come(5, 1000) == 1);
  seats.leave(1);
  CHECK(seats.oldest_waiting() == 2);
}

TEST_CASE("where all wait, the oldest of all gives way") {
  Seats seats({.waiting = 2, .waiting_of_a_user = 2, .attached = 4, .attached_of_a_user = 2});
  CHECK_FALSE(seats.come(1, 1).has_value());
  CHECK_FALSE(seats.come(2, 2).has_value());
  CHECK(seats.come(3, 3) == 1);
}

TEST_CASE("the attached are bounded, for a user and in all, and wait no more") {
  Seats seats({.waiting = 10, .waiting_of_a_user = 10, .attached = 3, .attached_of_a_user = 2});
  for (Seats::Id id = 1; id <= 3; ++id) seats.come(id, 1000);
  CHECK(seats.attach(1).taken);
  CHECK(seats.attach(1).taken);
  CHECK(seats.attach(2).taken);
  CHECK_FALSE(seats.attach(3).taken);
  CHECK(seats.oldest_waiting() == 3);
  seats.come(4, 2000);
  CHECK_FALSE(seats.attach(4).surplus.has_value());
  CHECK(seats.attached() == 3);
  seats.leave(1);
  CHECK(seats.attached() == 2);
  CHECK(seats.attach(3).taken);
  CHECK_FALSE(seats.attach(99).taken);
  seats.leave(99);
}

TEST_CASE("where all that may be are attached, the user with the most loses his newest one") {
  Seats seats({.waiting = 10, .waiting_of_a_user = 10, .attached = 4, .attached_of_a_user = 3});
  for (Seats::Id id = 1; id <= 3; ++id) {
    seats.come(id, 1000);
    CHECK(seats.attach(id).taken);
  }
  for (Seats::Id id = 4; id <= 6; ++id) seats.come(id, static_cast<uid_t>(id));
  CHECK(seats.attach(4).taken);
  CHECK(seats.attach(5).surplus == 3);
  seats.leave(3);
  CHECK(seats.attached() == 4);
  CHECK(seats.attach(6).surplus == 2);
  seats.leave(2);
  // Nobody loses his only one, nor for somebody with as many.
  seats.come(7, 7);
  CHECK_FALSE(seats.attach(7).taken);
  seats.come(8, 4);
  CHECK_FALSE(seats.attach(8).taken);
}

TEST_CASE("few descriptors make few seats, and fit") {
  for (std::size_t descriptors : {32, 64, 96, 256, 1024, 4096, 1 << 20}) {
    SeatLimits limits = SeatLimits::of(descriptors);
    CHECK(limits.waiting_of_a_user < limits.waiting);
    CHECK(limits.attached_of_a_user < limits.attached);
    if (descriptors >= 96) CHECK(limits.waiting + 2 * limits.attached <= descriptors);
  }
}

TEST_CASE("a bucket gives what it holds, then what flows in") {
  RateLimit<int> limit(10, 20);
  for (int i = 0; i < 20; ++i) CHECK(limit.take(1, 0));
  CHECK_FALSE(limit.take(1, 0));
  CHECK(limit.take(2, 0));  // another's
  CHECK_FALSE(limit.take(1, kSecond / 20));
  CHECK(limit.take(1, kSecond / 5));
  CHECK(limit.take(1, kSecond / 5));
  CHECK_FALSE(limit.take(1, kSecond / 5));
  // However long it is quiet, it holds no more than it can.
  for (int i = 0; i < 20; ++i) CHECK(limit.take(1, 1'000'000 * kSecond));
  CHECK_FALSE(limit.take(1, 1'000'000 * kSecond));
  // Nor is anything lost or won when the clock seems to go back.
  CHECK_FALSE(limit.take(1, 0));
}

TEST_CASE("ever new keys do not fill the memory") {
  RateLimit<int> limit(1, 1);
  for (int key = 0; key < 100'000; ++key) CHECK(limit.take(key, 0));
}

TEST_CASE("users take turns, however many jobs one of them has") {
  WorkQueue queue(1, 2);
  std::promise<void> running, begin;
  queue.give(1, [&] {
    running.set_value();
    begin.get_future().wait();
  });
  running.get_future().wait();
  std::mutex mutex;
  std::vector<int> order;
  std::promise<void> end;
  auto note = [&](int user) {
    std::lock_guard lock(mutex);
    order.push_back(user);
    if (order.size() == 102) end.set_value();
  };
  for (int i = 0; i < 100; ++i) queue.give(1, [&] { note(1); });
  for (int i = 0; i < 2; ++i) queue.give(2, [&] { note(2); });
  begin.set_value();
  end.get_future().wait();
  CHECK(std::vector(order.begin(), order.begin() + 5) == std::vector{1, 2, 1, 2, 1});
}

TEST_CASE(
    "a user whose jobs take long leaves a thread for others, and all there are to one alone") {
  WorkQueue queue(3, 2);
  std::promise<void> end;
  const std::shared_future<void> ended(end.get_future());
  std::atomic<int> running = 0, most = 0;
  std::atomic<bool> told = false;
  std::promise<void> two;
  for (int i = 0; i < 5; ++i) {
    queue.give(1, [&] {
      const int now = ++running;
      most = std::max<int>(most, now);
      if (now == 2 && !told.exchange(true)) two.set_value();
      ended.wait();
      --running;
    });
  }
  two.get_future().wait();
  std::promise<void> other;
  queue.give(2, [&] { other.set_value(); });
  other.get_future().wait();  // for ever, were all threads the first user's
  CHECK(most == 2);
  std::promise<void> last;
  queue.give(1, [&] { last.set_value(); });
  end.set_value();
  last.get_future().wait();
}
