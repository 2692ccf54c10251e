#include "shim/session/under_way.h"

#include <fcntl.h>

#include <cerrno>
#include <ctime>

#include "shim/arena/kernel.h"
#include "shim/arena/participant.h"
#include "shim/arena/process.h"
#include "shim/boot/own_table.h"
#include "shim/boot/sandbox.h"
#include "shim/session/helper.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/proc.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

// How long after the close a thread that is not seen in a call may have woken just now, and not
// come far yet: whatever it does, and when it waits for what may be another's. One that runs gets the
// processor when others let it have it: what counts is how much it has computed since.
constexpr std::int64_t kGraceNs = 30'000'000;
constexpr std::int64_t kWaitingGraceNs = 1'000'000'000;
constexpr std::int64_t kComputingNs = 50'000'000;

// From the look at a number to the system call there are a few instructions, and what a signal's handler
// does between. A thread that has computed for longer since is elsewhere: it was cancelled, or jumped
// away.
constexpr std::int64_t kToTheCallNs = kComputingNs;

std::atomic<bool> g_forgotten{false};

// What a thread of this process has computed so far; -1 when there is none.
std::int64_t computed_by(std::uint32_t thread) noexcept {
  timespec used{};
  // MAKE_THREAD_CPUCLOCK(thread, CPUCLOCK_SCHED), linux/posix-timers_types.h
  auto clock = static_cast<long>(static_cast<std::int32_t>(~thread << 3 | 6u));
  if (kernel::call(SYS_clock_gettime, clock, kernel::word(&used)) != 0) return -1;
  return std::int64_t{used.tv_sec} * 1'000'000'000 + used.tv_nsec;
}

// Not asleep in a call, whichever.
bool is_running(std::uint32_t thread) noexcept {
  ProcPath path;
  path.before("/syscall").before(thread).before("/proc/self/task/");
  char text[8];
  return read_proc(path, text) > 0 && (text[0] == 'r' || text[0] == '-');
}

// Until it sleeps in a call, or has none to make any more, as `is_on_its_way()` says.
template <typename Question>
void await_sleeping(std::uint32_t thread, Question is_on_its_way) noexcept {
  constexpr timespec kBetweenLooks{0, 50'000};
  std::int64_t before = computed_by(thread);
  while (before >= 0 && is_on_its_way() && is_running(thread) &&
         computed_by(thread) - before < kToTheCallNs) {
    kernel::call(SYS_nanosleep, kernel::word(&kBetweenLooks), 0);
  }
}

// The number after `text`, decimal or with 0x, and where it ends.
std::uint64_t parse_number(const char *&text) noexcept {
  unsigned base = 10;
  if (text[0] == '0' && text[1] == 'x') {
    base = 16;
    text += 2;
  }
  std::uint64_t number = 0;
  for (;; ++text) {
    unsigned digit = *text >= '0' && *text <= '9'   ? static_cast<unsigned>(*text - '0')
                     : *text >= 'a' && *text <= 'f' ? static_cast<unsigned>(*text - 'a') + 10
                                                    : 16;
    if (digit >= base) return number;
    number = number * base + digit;
  }
}

enum class Asleep : std::uint8_t { here, elsewhere, awake, running };

// In `asker`'s table: this thread may have another.
bool is_open(int number, std::uint32_t asker) noexcept {
  ProcPath path;
  path.before(static_cast<std::uint32_t>(number))
      .before("/fd/")
      .before(asker)
      .before("/proc/self/task/");
  char target[1];
  return kernel::call(SYS_readlinkat, AT_FDCWD, kernel::word(path.text()), kernel::word(target),
                      sizeof target) > 0;
}

// What a thread of this process does: proc(5), /proc/PID/syscall: "running", or the number of the
// call it sleeps in and its arguments.
Asleep look_at(std::uint32_t thread, Slot &slot, std::uint32_t closed,
               std::uint32_t asker) noexcept {
  ProcPath path;
  path.before("/syscall").before(thread).before("/proc/self/task/");
  long file = kernel::call(SYS_openat, AT_FDCWD, kernel::word(path.text()), O_RDONLY | O_CLOEXEC);
  if (file < 0) return Asleep::elsewhere;
  char line[64] = {};
  long got = kernel::call(SYS_read, file, kernel::word(line), sizeof(line) - 1);
  kernel::close(static_cast<int>(file));
  if (got <= 0) return Asleep::elsewhere;
  // "-1": it waits for a page.
  if (line[0] == 'r' || line[0] == '-') return Asleep::running;
  if (line[0] < '0' || line[0] > '9') return Asleep::elsewhere;
  const char *at = line;
  auto call = static_cast<long>(parse_number(at));
  if (*at == ' ') ++at;
  std::uint64_t first = parse_number(at);
  switch (call) {
    case SYS_recvfrom:
    case SYS_sendto: {
      // The number that was closed last, a copy of inlay's, or one that is nothing any more.
      auto number = static_cast<int>(first);
      bool here = number == static_cast<int>(closed) || is_own_descriptor(number) || number < 0 ||
                  !is_open(number, asker);
      return here ? Asleep::here : Asleep::elsewhere;
    }
    case SYS_futex: {  // for the session's state, or one of its locks
      auto begin = reinterpret_cast<std::uint64_t>(&slot);
      if (first - begin < sizeof(Slot)) return Asleep::here;
      // On its way out of the call it takes locks of the library, too.
      bool may_leave = local(slot).caller.load(std::memory_order_relaxed) == thread;
      return may_leave ? Asleep::awake : Asleep::elsewhere;
    }
    case SYS_ppoll:
      return Asleep::awake;  // of what is not told
    default:
      return Asleep::elsewhere;
  }
}

}  // namespace

void count(Slot &slot, UnderWay &call) noexcept {
  Local &mine = local(slot);
  mine.caller.store(current_thread_id(), std::memory_order_relaxed);
  mine.calls.fetch_add(1, std::memory_order_acq_rel);
  call.counted = true;
}

bool follow(Slot &slot, UnderWay &call) noexcept {
  if (!call.counted || boot::sandboxed()) return false;  // the filter may know none of these calls
  Locked life(slot.life_lock);
  int number = static_cast<int>(local(slot).descriptor) - 1;
  if (life.reentered() || number < 0 ||
      slot.generation.load(std::memory_order_relaxed) != call.generation) {
    return false;
  }
  int own = copy_own(number);
  if (own < 0) return false;
  call.fd = own;
  call.copied = true;
  return true;
}

void end(Slot &slot, UnderWay &call) noexcept {
  if (call.copied) close_own(call.fd);
  if (slot.generation.load(std::memory_order_acquire) != call.generation) return;
  Local &mine = local(slot);
  std::uint32_t calls = mine.calls.load(std::memory_order_relaxed);
  while (calls > 0 && !mine.calls.compare_exchange_weak(calls, calls - 1)) {
  }
  if (calls == 1 && mine.hidden) notify_helper(slot);
}

void let_sleep(Slot &slot) noexcept {
  Local &mine = local(slot);
  const Participant flusher = slot.sending.flusher.load(std::memory_order_acquire);
  const std::uint32_t caller = mine.caller.load(std::memory_order_relaxed);
  const std::uint32_t me = current_thread_id();
  if (boot::sandboxed()) return;
  if (flusher != 0 && thread_of(flusher) != me &&
      participant(0, process_of(flusher)) == participant(0, process_of(this_process()))) {
    await_sleeping(thread_of(flusher), [&] {
      return slot.sending.flusher.load(std::memory_order_acquire) == flusher;
    });
  }
  const std::uint32_t calls = mine.calls.load(std::memory_order_acquire);
  if (calls == 0 || caller == me || caller == thread_of(flusher)) return;
  await_sleeping(caller, [&] { return mine.calls.load(std::memory_order_acquire) >= calls; });
}

bool is_called(Slot &slot, int fd) noexcept {
  Local &mine = local(slot);
  std::uint32_t calls = mine.calls.load(std::memory_order_acquire);
  if (calls == 0 || g_forgotten.load(std::memory_order_relaxed) || boot::sandboxed()) return false;
  // This thread has left the call by a jump, or is in a signal's handler: then the call ends, too.
  if (calls == 1 && mine.caller.load(std::memory_order_relaxed) == current_thread_id()) {
    mine.calls.store(0, std::memory_order_relaxed);
    return false;
  }
  mine.closed = static_cast<std::uint32_t>(fd) + 1;
  mine.closed_ns = monotonic_ns();
  mine.closed_computed_ns = computed_by(mine.caller.load(std::memory_order_relaxed));
  return true;
}

bool is_still_called(Slot &slot) noexcept {
  Local &mine = local(slot);
  if (mine.calls.load(std::memory_order_acquire) == 0 || mine.closed == 0 ||
      g_forgotten.load(std::memory_order_relaxed) || boot::sandboxed()) {
    return false;
  }
  std::int64_t since = monotonic_ns() - mine.closed_ns;
  if (since < kGraceNs) return true;
  // Of the others it is not known how much they had computed by then.
  auto is_coming = [&](std::uint32_t thread) {
    if (thread != mine.caller.load(std::memory_order_relaxed)) return since < kWaitingGraceNs;
    std::int64_t computed = computed_by(thread);
    return computed >= 0 && computed - mine.closed_computed_ns < kComputingNs;
  };
  bool called = false;
  const std::uint32_t asker = current_thread_id();
  boot::in_own_table([&] {
    constexpr const char kTasks[] = "/proc/self/task";
    long folder = kernel::call(SYS_openat, AT_FDCWD, kernel::word(kTasks),
                               O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    const auto here = static_cast<std::uint32_t>(kernel::thread_id());
    for_each_number(static_cast<int>(folder), [&](std::uint32_t thread) {
      if (thread == asker || thread == here) return true;
      Asleep what = look_at(thread, slot, mine.closed - 1, asker);
      called = what == Asleep::here || (what == Asleep::awake && since < kWaitingGraceNs) ||
               (what == Asleep::running && is_coming(thread));
      return !called;
    });
    kernel::close(static_cast<int>(folder));
  });
  return called;
}

void exec_failed() noexcept { g_forgotten.store(false, std::memory_order_relaxed); }

void forget_calls() noexcept {
  g_forgotten.store(true, std::memory_order_relaxed);
  if (lingering().load(std::memory_order_acquire) == 0) return;
  for_each_slot([](Slot &slot) {
    if (local(slot).hidden && local(slot).closed != 0) notify_helper(slot);
  });
}

}  // namespace inlay::shim
