// The clock for what libinlay.so is linked with, OpenSSL above all; local to the library, by the
// export map. By another's clock certificates would be judged that are good no more, or not yet.

#include <sys/time.h>

#include <ctime>

#include "shim/boot/clock.h"

using inlay::shim::boot::read_clock;

extern "C" {

int clock_gettime(clockid_t clock, struct timespec *time) noexcept {
  return read_clock(clock, time);
}

time_t time(time_t *result) noexcept {
  timespec now{};
  read_clock(CLOCK_REALTIME, &now);
  if (result != nullptr) *result = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *time, void *zone) noexcept {
  timespec now{};
  if (read_clock(CLOCK_REALTIME, &now) != 0) return -1;
  *time = {.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
  if (zone != nullptr) *static_cast<struct timezone *>(zone) = {};
  return 0;
}

}  // extern "C"
