// The time as the agent sees it. Tests have clocks of their own.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>

namespace inlay::identity::agent {

struct Clock {
  std::function<std::time_t()> now;       // seconds since the epoch: can be set
  std::function<std::int64_t()> elapsed;  // milliseconds since boot, sleep included
  std::function<double()> chance;         // from 0 to less than 1, for jitter
};

Clock system_clock();

}  // namespace inlay::identity::agent
