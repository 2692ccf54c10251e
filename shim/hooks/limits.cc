// Limits a process sets itself. Servers that separate privileges leave the half that talks to the
// network no descriptor and no thread to spare: the helper, which needs both, is started while that
// is possible. What inlay maps counts towards RLIMIT_AS, and is added to what the program asks for.
#include <sys/resource.h>

#include <algorithm>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/boot/log.h"
#include "shim/hooks/hook.h"
#include "shim/session/fork.h"

using namespace inlay::shim;

namespace {

// What the program asked for and what it was given instead, soft and hard.
std::atomic<rlim_t> g_asked[2], g_given[2];

// The program finds what it set, until somebody sets another.
template <typename Limit>
void show_asked(Limit &limit) noexcept {
  if (limit.rlim_cur == g_given[0].load(std::memory_order_relaxed)) limit.rlim_cur = g_asked[0];
  if (limit.rlim_max == g_given[1].load(std::memory_order_relaxed)) limit.rlim_max = g_asked[1];
}

rlim_t sum(rlim_t limit, rlim_t more) noexcept {
  return limit > RLIM_INFINITY - more ? RLIM_INFINITY : limit + more;
}

bool current_limit(int resource, rlimit *limit) noexcept {
  return kernel::call(SYS_prlimit64, 0, resource, 0, kernel::word(limit)) == 0;
}

template <typename Limit>
int set_address_space(const Limit &wanted) noexcept {
  rlim_t more = address_space_needed();
  rlimit now{RLIM_INFINITY, RLIM_INFINITY};
  current_limit(RLIMIT_AS, &now);
  rlimit64 given{sum(wanted.rlim_cur, more), sum(wanted.rlim_max, more)};
  // Not everybody may raise a hard limit, and nobody is to who did not ask for it.
  given.rlim_max =
      std::max<rlim_t>(std::min<rlim_t>(given.rlim_max, now.rlim_max), wanted.rlim_max);
  given.rlim_cur = std::max<rlim_t>(std::min(given.rlim_cur, given.rlim_max), wanted.rlim_cur);
  int result = next.setrlimit64(RLIMIT_AS, &given);
  if (result != 0) return result;
  g_asked[0] = wanted.rlim_cur;
  g_asked[1] = wanted.rlim_max;
  g_given[0] = given.rlim_cur;
  g_given[1] = given.rlim_max;
  return 0;
}

bool ours() noexcept { return boot::active() && !in_foreign_process(); }

template <typename Limit>
void before_limit(int resource, const Limit &wanted) noexcept {
  rlimit now{};
  if ((resource != RLIMIT_NOFILE && resource != RLIMIT_NPROC) || !current_limit(resource, &now) ||
      wanted.rlim_cur >= now.rlim_cur || !has_sockets()) {
    return;
  }
  boot::open_log();
  keep_helper();
}

template <typename Limit, typename Set>
int set_limit(int resource, const Limit *wanted, Set set) noexcept {
  bound();
  if (wanted != nullptr && ours()) {
    if (resource == RLIMIT_AS) return set_address_space(*wanted);
    before_limit(resource, *wanted);
  }
  return set();
}

template <typename Limit, typename Set>
int exchange_limit(pid_t process, int resource, const Limit *wanted, Limit *before,
                   Set set) noexcept {
  bound();
  if ((process != 0 && process != kernel::process_id()) || !ours()) return set();
  if (resource != RLIMIT_AS) {
    if (wanted != nullptr) before_limit(resource, *wanted);
    return set();
  }
  rlimit earlier{};
  if (before != nullptr && current_limit(resource, &earlier)) show_asked(earlier);
  if (wanted != nullptr && set_address_space(*wanted) != 0) return -1;
  if (before != nullptr) *before = {earlier.rlim_cur, earlier.rlim_max};
  return 0;
}

template <typename Limit>
int shown(int result, int resource, Limit *limit) noexcept {
  if (result == 0 && resource == RLIMIT_AS && boot::active()) show_asked(*limit);
  return result;
}

}  // namespace

extern "C" {

int setrlimit(__rlimit_resource_t resource, const rlimit *wanted) noexcept {
  return set_limit(resource, wanted, [&] { return next.setrlimit(resource, wanted); });
}
int setrlimit64(__rlimit_resource_t resource, const rlimit64 *wanted) noexcept {
  return set_limit(resource, wanted, [&] { return next.setrlimit64(resource, wanted); });
}

int prlimit(pid_t process, __rlimit_resource resource, const rlimit *wanted,
            rlimit *before) noexcept {
  return exchange_limit(process, resource, wanted, before,
                        [&] { return next.prlimit(process, resource, wanted, before); });
}
int prlimit64(pid_t process, __rlimit_resource resource, const rlimit64 *wanted,
              rlimit64 *before) noexcept {
  return exchange_limit(process, resource, wanted, before,
                        [&] { return next.prlimit64(process, resource, wanted, before); });
}

int getrlimit(__rlimit_resource_t resource, rlimit *limit) noexcept {
  return shown(bound().getrlimit(resource, limit), resource, limit);
}
int getrlimit64(__rlimit_resource_t resource, rlimit64 *limit) noexcept {
  return shown(bound().getrlimit64(resource, limit), resource, limit);
}

}  // extern "C"
