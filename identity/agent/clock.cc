#include "identity/agent/clock.h"

#include <sys/random.h>

namespace inlay::identity::agent {
namespace {

std::int64_t elapsed_milliseconds() {
  timespec time{};
  clock_gettime(CLOCK_BOOTTIME, &time);
  return std::int64_t{time.tv_sec} * 1000 + time.tv_nsec / 1000000;
}

// The kernel's: a fleet of machines that booted at once must not draw the same numbers.
double chance() {
  std::uint32_t number = 0;
  if (getrandom(&number, sizeof number, GRND_NONBLOCK) != sizeof number) return 0.5;
  return static_cast<double>(number) / 4294967296.0;
}

}  // namespace

Clock system_clock() {
  return {[] { return std::time(nullptr); }, elapsed_milliseconds, chance};
}

}  // namespace inlay::identity::agent
