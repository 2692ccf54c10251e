// Handing the compiled policy to libinlay.so: a sealed memfd that survives the exec, so that the
// program neither parses TOML nor sees a file that changed after it was checked.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "policy/policy.h"

namespace inlay::tools {

// Descriptor numbers below this are left to the program: shells and daemons choose small ones.
inline constexpr int kFirstSnapshotFd = 200;

// The value of INLAY_SNAPSHOT, "<fd>:<st_ino>", of a new descriptor without close-on-exec that
// holds policy::serialize(policy) and can be neither written nor resized. The library closes it.
// The error is one line.
tl::expected<std::string, std::string> make_snapshot(const policy::Policy &policy);

}  // namespace inlay::tools
