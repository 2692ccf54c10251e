#include "shim/arena/lock.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <new>
#include <thread>
#include <vector>

#include "shim/arena/process.h"

using inlay::shim::Locked;
using inlay::shim::LockResult;
using inlay::shim::SharedLock;

namespace {

// What several processes share, as a slot does.
struct Shared {
  SharedLock lock;
  std::atomic<bool> ready{false};
  long guarded = 0;
};

Shared &make_shared() {
  static bool page = inlay::shim::make_process_page();
  REQUIRE(page);
  void *memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  return *new (memory) Shared;
}

[[gnu::noinline]] void take_and_jump(SharedLock &lock, std::jmp_buf &out) {
  volatile char depth[512];  // well below the frame that calls acquire() next
  depth[0] = 0;
  lock.acquire();
  std::longjmp(out, 1 + depth[0]);
}

[[gnu::noinline]] LockResult take_deeper(SharedLock &lock) {
  volatile char depth[512];
  depth[0] = 0;
  LockResult result = lock.acquire();
  return depth[0] == 0 ? result : LockResult::acquired;
}

}  // namespace

TEST_CASE("one owner at a time, between threads and processes") {
  Shared &shared = make_shared();
  constexpr int kRounds = 20000;
  auto work = [&shared] {
    for (int i = 0; i < kRounds; ++i) {
      Locked guard(shared.lock);
      shared.guarded = shared.guarded + 1;
    }
  };
  pid_t child = fork();
  if (child == 0) {
    work();
    _exit(0);
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(work);
  for (std::thread &thread : threads) thread.join();
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(shared.guarded == 4 * kRounds);
}

TEST_CASE("a dead owner's lock is taken over and said to be") {
  Shared &shared = make_shared();
  pid_t child = fork();
  if (child == 0) {
    shared.lock.acquire();
    _exit(0);
  }
  REQUIRE(waitpid(child, nullptr, 0) == child);
  CHECK(shared.lock.acquire() == LockResult::owner_gone);
  shared.lock.release();
  CHECK(shared.lock.acquire() == LockResult::acquired);
  shared.lock.release();
}

TEST_CASE("the same thread further down its stack is told so and does not release the lock") {
  Shared &shared = make_shared();
  CHECK(shared.lock.acquire() == LockResult::acquired);
  CHECK(take_deeper(shared.lock) == LockResult::reentered);
  {
    Locked guard(shared.lock);
    CHECK(guard.reentered());
  }
  CHECK(take_deeper(shared.lock) == LockResult::reentered);
  shared.lock.release();
  CHECK(take_deeper(shared.lock) == LockResult::acquired);
  shared.lock.release();
}

TEST_CASE("a frame that was jumped out of has left its lock") {
  Shared &shared = make_shared();
  std::jmp_buf out;
  if (setjmp(out) == 0) take_and_jump(shared.lock, out);
  CHECK(shared.lock.acquire() == LockResult::owner_gone);
  shared.lock.release();
}

TEST_CASE("renewing forgets dead and own owners and leaves a living one alone") {
  Shared &shared = make_shared();
  shared.lock.renew();

  pid_t child = fork();
  if (child == 0) {
    shared.lock.acquire();
    _exit(0);
  }
  REQUIRE(waitpid(child, nullptr, 0) == child);
  shared.lock.renew();
  CHECK(shared.lock.acquire() == LockResult::acquired);

  shared.lock.renew();
  CHECK(take_deeper(shared.lock) == LockResult::acquired);
  shared.lock.release();

  std::atomic<bool> let_go{false};
  std::thread owner([&] {
    Locked guard(shared.lock);
    shared.ready = true;
    shared.ready.notify_one();
    let_go.wait(false);
    shared.guarded = 7;
  });
  shared.ready.wait(false);
  shared.lock.renew();
  std::atomic<bool> passed{false};
  std::thread next([&] {
    Locked guard(shared.lock);
    CHECK(shared.guarded == 7);
    passed = true;
  });
  let_go = true;
  let_go.notify_one();
  owner.join();
  next.join();
  CHECK(passed);
}
