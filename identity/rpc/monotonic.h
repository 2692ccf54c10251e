// The clock for deadlines and rates, which nobody sets.
#pragma once

#include <cstdint>
#include <ctime>

namespace inlay::identity::rpc {

inline std::int64_t monotonic_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace inlay::identity::rpc
