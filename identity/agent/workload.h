// What the kernel says of a process that asks, at the moment it asks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::identity::agent {

// Who is at the other end: from SO_PEERCRED when it connected, from SCM_CREDENTIALS with a request.
struct Caller {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  bool operator==(const Caller &) const = default;
};

struct Workload {
  pid_t pid = 0;
  std::uint64_t start_time =
      0;          // clock ticks since boot (/proc/PID/stat field 22): pids are reused
  uid_t uid = 0;  // effective, of the credentials the kernel passed
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  std::string executable;     // path of /proc/PID/exe
  std::uint64_t executable_device = 0;
  std::uint64_t executable_inode = 0;
  std::string unit;    // systemd unit of the cgroup; "" = none
  std::string cgroup;  // path in the unified hierarchy
  pid_t tracer = 0;    // 0 = not traced
};

// Reads /proc, with a pidfd held where the kernel has them: all of it is of one process, the one
// with `caller`'s pid, or an error. The error is one line.
tl::expected<Workload, std::string> examine(const Caller &caller);

}  // namespace inlay::identity::agent
