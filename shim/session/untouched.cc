#include "shim/session/untouched.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <ctime>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/session/handshake_task.h"
#include "shim/session/holders.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/local.h"
#include "shim/session/proc.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

constexpr std::int64_t kGraceNs = 5'000'000;        // whatever the thread does
constexpr std::int64_t kBlindGraceNs = 50'000'000;  // when what it does can't be seen
// Of the thread's own processor time: a thread that only waits for its turn is not slow to decide.
constexpr std::int64_t kComputingGraceNs = 50'000'000;
constexpr std::int64_t kSharedGraceNs = 1'000'000'000;  // asleep, or a forked child has it as well

// Descriptors of the program's number, for as long as silent peers like: few.
constexpr std::uint32_t kClosedUntouched = 64;

std::atomic<std::uint32_t> g_givings{0};

enum class Doing : std::uint8_t {
  computing,
  starting,   // in vfork or posix_spawn: it goes on when the child runs another program
  listening,  // waits for descriptors, or the next connection
  reaping,    // waits for a child
  other,
  ended,
  hidden,
};

Doing doing_in(long call) noexcept {
  switch (call) {
#ifdef SYS_vfork
    case SYS_vfork:
    case SYS_fork:
#endif
    case SYS_clone:
    case SYS_clone3:
      return Doing::starting;
#ifdef SYS_select
    case SYS_select:
    case SYS_poll:
    case SYS_epoll_wait:
#endif
    case SYS_pselect6:
    case SYS_ppoll:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_accept:
    case SYS_accept4:
      return Doing::listening;
    case SYS_wait4:
    case SYS_waitid:
      return Doing::reaping;
    default:
      return Doing::other;
  }
}

Doing look_at(std::uint32_t thread) noexcept {
  if (boot::sandboxed()) return Doing::hidden;
  ProcPath path;
  path.before("/syscall").before(thread).before("/proc/self/task/");
  // "running", or the number of the call it sleeps in and its arguments; "-1" outside one.
  char line[16];
  long got = read_proc(path, line);
  if (got == -ENOENT || got == -ESRCH) {
    bool lives = kernel::call(SYS_tgkill, kernel::process_id(), static_cast<long>(thread), 0) == 0;
    return lives ? Doing::hidden : Doing::ended;
  }
  if (got <= 0) return Doing::hidden;
  if (line[0] == 'r') return Doing::computing;
  if (line[0] < '0' || line[0] > '9') return Doing::other;
  long call = 0;
  for (const char *digit = line; *digit >= '0' && *digit <= '9'; ++digit) {
    call = call * 10 + (*digit - '0');
  }
  return doing_in(call);
}

// The processor time of a thread of this process: the kernel's encoding of its clock
// (CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED, include/linux/posix-timers.h).
std::int64_t processor_ns(std::uint32_t thread) noexcept {
  auto clock = static_cast<clockid_t>((~thread << 3) | 6);
  timespec used{};
  if (kernel::call(SYS_clock_gettime, clock, kernel::word(&used)) != 0) return INT64_MAX;
  return std::int64_t{used.tv_sec} * 1'000'000'000 + used.tv_nsec;
}

bool is_hidden(const Slot &slot) noexcept {
  return slot.state.load(std::memory_order_acquire) == State::waiting &&
         slot.hides_readiness.load(std::memory_order_acquire);
}

}  // namespace

Untouched judge_untouched(Slot &slot, int fd, std::int64_t waited_ns) noexcept {
  if (!is_fresh(fd)) return Untouched::hand_on;
  if (waited_ns < kGraceNs) return Untouched::wait;
  const Local &mine = local(slot);
  bool patient = waited_ns < kSharedGraceNs;
  switch (look_at(mine.acceptor)) {
    case Doing::starting:
      return Untouched::wait;
    case Doing::computing:
      if (processor_ns(mine.acceptor) - mine.accepted_cpu_ns < kComputingGraceNs) {
        return Untouched::wait;
      }
      break;
    case Doing::reaping:
      // The child it waits for may be about to use it; this thread is not.
      return patient ? Untouched::wait : Untouched::hand_on;
    case Doing::other:
      if (patient) return Untouched::wait;
      if (held_elsewhere(slot)) return Untouched::hand_on;
      break;
    case Doing::hidden:
      if (waited_ns < kBlindGraceNs) return Untouched::wait;
      break;
    case Doing::listening:
    case Doing::ended:
      break;
  }
  return patient && held_elsewhere(slot) ? Untouched::wait : Untouched::begin;
}

bool begin_to_end(Slot &slot, int fd) noexcept {
  const Local &mine = local(slot);
  if (mine.accepted_at == 0 || mine.accepted_at != givings() + 1 || !is_fresh(fd) ||
      lingering().load(std::memory_order_acquire) >= kClosedUntouched) {
    return false;
  }
  Participant nobody = 0;
  if (!slot.owner.compare_exchange_strong(nobody, this_process(), std::memory_order_acq_rel)) {
    return false;
  }
  set_state(slot, State::handshaking);
  return true;
}

void note_giving() noexcept { g_givings.fetch_add(1, std::memory_order_relaxed); }
std::uint32_t givings() noexcept { return g_givings.load(std::memory_order_relaxed); }

void hand_on(Slot &slot, int fd) noexcept {
  if (!is_hidden(slot)) return;
  if (slot.hides_readiness.exchange(false, std::memory_order_acq_rel)) refire_readable(slot, fd);
}

void hand_on_standard_streams() noexcept {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    std::uint64_t cookie = 0;
    socklen_t length = sizeof(cookie);
    if (kernel::get_option(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) != 0) continue;
    if (Slot *slot = find_slot(cookie)) hand_on(*slot, fd);
  }
}

}  // namespace inlay::shim
