// A preload for the agent and the authority: the date is INLAY_TEST_LATER seconds later than it is.
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

#pragma GCC visibility push(default)
extern "C" {

int clock_gettime(clockid_t clock, timespec *out) noexcept {
  const long result = syscall(SYS_clock_gettime, clock, out);
  const char *const later = getenv("INLAY_TEST_LATER");
  const bool is_date = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  if (result == 0 && is_date && later != nullptr) out->tv_sec += atol(later);
  return static_cast<int>(result);
}

time_t time(time_t *out) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(timeval *out, void *) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  *out = {now.tv_sec, now.tv_nsec / 1000};
  return 0;
}

}  // extern "C"
#pragma GCC visibility pop
