// What `inlay run --strict` and libinlay.so agree on about the system call filter the launcher
// installs: sockets are made, and connections accepted, by instructions at one fixed address only.
// A filter knows where a call comes from but not who is loaded where, outlives every exec and is
// never removed: hence an address that is the same in every image, as rr does it.
#pragma once

#include <cerrno>
#include <cstdint>

namespace inlay::policy {

// Above any non-PIE executable, below what the kernel chooses by itself.
inline constexpr std::uint32_t kGateAddress = 0x70000000;
// A filter is told the address behind the instruction that made the call. The gate is a landing pad
// for indirect branches (4 bytes on both), the system call, a return.
#if defined(__x86_64__)
inline constexpr std::uint32_t kGateReturn = kGateAddress + 6;
#else
inline constexpr std::uint32_t kGateReturn = kGateAddress + 8;
#endif

// The filter answers prctl(kContainedQuestion) with this errno; a kernel without it says EINVAL.
inline constexpr int kContainedQuestion = 0x696e6c61;
inline constexpr int kContainedAnswer = EALREADY;

}  // namespace inlay::policy
