#include "shim/arena/lock.h"

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <new>
#include <thread>
#include <vector>

#include "shim/arena/participant.h"
#include "shim/arena/process.h"
#include "tls/sanitizer.h"

using inlay::shim::Locked;
using inlay::shim::LockResult;
using inlay::shim::Participant;
using inlay::shim::participant;
using inlay::shim::SharedLock;

namespace {

// What several processes share, as a slot does.
struct Shared {
  SharedLock lock;
  std::atomic<bool> ready{false};
  long guarded = 0;
  std::atomic<std::uint32_t> doubts{0};
  std::atomic<inlay::shim::Participant> first{0};  // who came first
  std::atomic<int> step{0};
};

void make_page() {
  static bool page = inlay::shim::make_process_page();
  REQUIRE(page);
}

Shared &make_shared() {
  make_page();
  void *memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  return *new (memory) Shared;
}

// Shared memory as an arena's: it says who lives.
Shared &make_vouched() {
  make_page();
  int fd = memfd_create("lock-test", MFD_CLOEXEC);
  REQUIRE(fd >= 0);
  REQUIRE(ftruncate(fd, sizeof(Shared)) == 0);
  void *memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  REQUIRE(memory != MAP_FAILED);
  auto *shared = new (memory) Shared;
  inlay::shim::vouch_in(0, {shared, sizeof(Shared), fd, &shared->doubts});
  return *shared;
}

bool enter_apart() {
  return unshare(geteuid() == 0 ? CLONE_NEWPID : CLONE_NEWUSER | CLONE_NEWPID) == 0;
}

bool ended_well(pid_t child) {
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Not every kernel lets everybody make a PID namespace.
bool can_be_apart() {
  pid_t child = fork();
  if (child == 0) _exit(enter_apart() ? 0 : 1);
  bool can = ended_well(child);
  if (!can) MESSAGE("no PID namespaces here");
  return can;
}

// A child that is process 1 of a PID namespace of its own. Through one in between: unshare is for
// ever.
template <typename Work>
pid_t fork_apart(Work work) {
  pid_t between = fork();
  if (between != 0) return between;
  if (!enter_apart()) _exit(3);
  pid_t child = fork();
  if (child == 0) {
    inlay::shim::vouch();
    _exit(work() ? 0 : 1);
  }
  _exit(ended_well(child) ? 0 : 2);
}

void reach(Shared &shared, int step) { shared.step.store(step); }
void wait_for(Shared &shared, int step) {
  while (shared.step.load() < step) sched_yield();
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

// Taken by a process that has ended.
Shared &make_orphaned() {
  Shared &shared = make_shared();
  pid_t child = fork();
  if (child == 0) {
    shared.lock.acquire();
    _exit(0);
  }
  REQUIRE(waitpid(child, nullptr, 0) == child);
  return shared;
}

TEST_CASE("a dead owner's lock is taken over and said to be") {
  Shared &shared = make_orphaned();
  CHECK(shared.lock.acquire() == LockResult::owner_gone);
  shared.lock.release();
  CHECK(shared.lock.acquire() == LockResult::acquired);
  shared.lock.release();
}

TEST_CASE("everybody after a dead owner is told, whoever found out first") {
  Shared &shared = make_orphaned();
  for (int i = 0; i < 3; ++i) {
    Locked guard(shared.lock);
    CHECK(guard.owner_gone());
  }
  // One that waits meanwhile is woken, and told the same.
  pid_t child;
  {
    Locked guard(shared.lock);
    child = fork();
    if (child == 0) _exit(shared.lock.acquire() == LockResult::owner_gone ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(Locked(shared.lock).owner_gone());
  shared.lock.renew();
  CHECK(shared.lock.acquire() == LockResult::acquired);
  shared.lock.release();
}

// TSan hands signals on later.
#if defined(__x86_64__) && !defined(INLAY_THREAD_SANITIZER)
SharedLock *g_stepped = nullptr;
long g_gone = 0, g_seen = 0;

// After each instruction between the two: takes the lock as a signal's handler does that came just
// there.
void take_in_handler(int) {
  volatile char deeper[256] = {};
  ++g_seen;
  switch (g_stepped->acquire()) {
    case LockResult::owner_gone:
      ++g_gone;
      [[fallthrough]];
    case LockResult::acquired:
      g_stepped->release();
      break;
    case LockResult::reentered:
      break;
  }
  CHECK(deeper[0] == 0);
}

TEST_CASE("a signal at any instruction of taking and releasing is re-entry, and no owner is gone") {
  Shared &shared = make_shared();
  g_stepped = &shared.lock;
  struct sigaction action {
  }, before{};
  action.sa_handler = take_in_handler;
  sigaction(SIGTRAP, &action, &before);
  for (int round = 0; round < 3; ++round) {  // fresh, and with what the round before left in it
    asm volatile("subq $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; addq $128, %%rsp" ::
                     : "memory", "cc");
    { Locked guard(shared.lock); }
    asm volatile("subq $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; addq $128, %%rsp" ::
                     : "memory", "cc");
  }
  sigaction(SIGTRAP, &before, nullptr);
  CHECK(g_seen > 30);
  CHECK(g_gone == 0);
  CHECK(shared.lock.acquire() == LockResult::acquired);
  shared.lock.release();
}
#endif

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

TEST_CASE("outwaiting returns when the owner has left, and takes nothing") {
  Shared &shared = make_shared();
  std::atomic<bool> waits{false};
  std::thread other([&] {
    while (!shared.ready) sched_yield();
    waits = true;
    shared.lock.outwait();
    shared.first = static_cast<Participant>(shared.guarded);
    shared.lock.outwait();  // free
  });
  {
    Locked guard(shared.lock);
    shared.lock.outwait();  // this thread's own
    shared.ready = true;
    while (!waits) sched_yield();
    for (int i = 0; i < 100; ++i) sched_yield();
    shared.guarded = 1;
  }
  other.join();
  CHECK(shared.first == 1);
  Locked guard(shared.lock);
  CHECK_FALSE(guard.owner_gone());
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

TEST_CASE("two processes with the same number in PID namespaces of their own are two owners") {
  if (!can_be_apart()) return;
  Shared &shared = make_vouched();
  pid_t first = fork_apart([&shared] {
    bool mine = getpid() == 1 && shared.lock.acquire() == LockResult::acquired;
    shared.first = inlay::shim::this_thread();
    reach(shared, 1);
    wait_for(shared, 2);
    shared.guarded = 5;
    shared.lock.release();
    return mine;
  });
  pid_t second = fork_apart([&shared] {
    wait_for(shared, 1);
    bool same_number = getpid() == 1 && gettid() == 1;
    bool told_apart = inlay::shim::this_thread() != shared.first.load() &&
                      inlay::shim::lives(&shared, shared.first.load());
    reach(shared, 2);
    LockResult result = take_deeper(shared.lock);  // the owner's frame may be above or below
    bool waited = result == LockResult::acquired && shared.guarded == 5;
    shared.lock.release();
    return same_number && told_apart && waited;
  });
  CHECK(ended_well(first));
  CHECK(ended_well(second));
}

TEST_CASE("who lives in another PID namespace is known in both directions") {
  if (!can_be_apart()) return;
  Shared &shared = make_vouched();
  inlay::shim::Participant outside = inlay::shim::this_thread();
  pid_t child = fork_apart([&shared, outside] {
    bool sees = inlay::shim::lives(&shared, outside);
    shared.lock.acquire();
    shared.first = inlay::shim::this_thread();
    reach(shared, 1);
    wait_for(shared, 2);
    return sees;  // the lock is never released
  });
  wait_for(shared, 1);
  CHECK(inlay::shim::lives(&shared, shared.first.load()));
  shared.lock.renew();  // it lives: its lock is left alone
  reach(shared, 2);
  CHECK(ended_well(child));
  CHECK_FALSE(inlay::shim::lives(&shared, shared.first.load()));
  CHECK(shared.lock.acquire() == LockResult::owner_gone);
  shared.lock.release();
}

TEST_CASE("who was killed is dead before anybody has waited for it") {
  Shared &shared = make_shared();
  pid_t owner = fork();
  if (owner == 0) {
    shared.lock.acquire();
    shared.first = inlay::shim::this_process();
    shared.ready = true;
    for (;;) pause();
  }
  while (!shared.ready) sched_yield();
  CHECK(inlay::shim::lives(&shared, shared.first));
  kill(owner, SIGKILL);
  siginfo_t info{};
  REQUIRE(waitid(P_PID, static_cast<id_t>(owner), &info, WEXITED | WNOWAIT) == 0);
  CHECK_FALSE(inlay::shim::lives(&shared, shared.first));
  pid_t waiter = fork();  // which this thread could not be
  if (waiter == 0) _exit(shared.lock.acquire() == LockResult::owner_gone ? 0 : 1);
  alarm(60);  // ends the test where it waits for ever
  CHECK(ended_well(waiter));
  alarm(0);
  REQUIRE(waitpid(owner, nullptr, 0) == owner);
}

TEST_CASE("a process whose first thread has ended lives while it has others") {
  Shared &shared = make_shared();
  pid_t child = fork();
  if (child == 0) {
    shared.first = inlay::shim::this_process();
    std::thread([] {
      for (;;) pause();
    }).detach();
    syscall(SYS_exit, 0);
  }
  auto first = static_cast<std::uint32_t>(child);
  Participant thread = 0;
  do {
    sched_yield();
    thread = shared.first | participant(0, 0, first);
  } while (shared.first == 0 || inlay::shim::lives(&shared, thread));
  CHECK(inlay::shim::lives(&shared, shared.first));
  kill(child, SIGKILL);
  siginfo_t info{};
  REQUIRE(waitid(P_PID, first, &info, WEXITED | WNOWAIT) == 0);
  CHECK_FALSE(inlay::shim::lives(&shared, shared.first));
  REQUIRE(waitpid(child, nullptr, 0) == child);
}

TEST_CASE("a process outside that ended is dead to those in a PID namespace") {
  if (!can_be_apart()) return;
  Shared &shared = make_vouched();
  pid_t dead = fork();
  if (dead == 0) {
    inlay::shim::vouch();
    shared.lock.acquire();
    shared.first = inlay::shim::this_thread();
    _exit(0);
  }
  REQUIRE(waitpid(dead, nullptr, 0) == dead);
  CHECK(ended_well(fork_apart([&shared] {
    bool gone = !inlay::shim::lives(&shared, shared.first.load());
    bool taken = shared.lock.acquire() == LockResult::owner_gone;
    shared.lock.release();
    return gone && taken;
  })));
}

TEST_CASE("while there is doubt, or nothing to ask, nobody in another PID namespace is dead") {
  if (!can_be_apart()) return;
  Shared &shared = make_vouched();
  pid_t dead = fork();
  if (dead == 0) {
    inlay::shim::vouch();
    shared.first = inlay::shim::this_thread();
    _exit(0);
  }
  REQUIRE(waitpid(dead, nullptr, 0) == dead);
  CHECK(ended_well(fork_apart([&shared] {
    bool doubted = false, believed = false;
    {
      inlay::shim::Doubt doubt;
      doubted = inlay::shim::lives(&shared, shared.first.load());
    }
    believed = !inlay::shim::lives(&shared, shared.first.load());
    // Another file at the number: it knows of no locks.
    int other = memfd_create("other", MFD_CLOEXEC);
    for (int fd = 3; fd < other; ++fd) dup2(other, fd);
    return doubted && believed && inlay::shim::lives(&shared, shared.first.load());
  })));
}
