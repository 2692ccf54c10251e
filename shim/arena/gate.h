// Under `inlay run --strict` the kernel takes some calls from one fixed page only
// (policy/containment.h). Here is that page.
#pragma once

namespace inlay::shim {

// True when this process runs under the launcher's filter. One system call; for boot.
bool is_contained() noexcept;

// Puts the gate page in its place. False when something else is there: then nothing passes.
bool open_gate() noexcept;

}  // namespace inlay::shim

// A system call from the gate page; negative errno on failure. Only after open_gate().
extern "C" __attribute__((visibility("hidden"))) long inlay_gate_call(long number, long a, long b,
                                                                      long c, long d, long e,
                                                                      long f) noexcept;
