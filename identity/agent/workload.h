// What the kernel says of a process that asks, at the moment it asks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
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
  // Clock ticks since boot (/proc/PID/stat field 22): pids are reused.
  std::uint64_t start_time = 0;
  uid_t uid = 0;  // effective
  gid_t gid = 0;
  std::vector<gid_t> groups{};  // supplementary
  std::string executable{};     // path of /proc/PID/exe
  std::uint64_t executable_device = 0;
  std::uint64_t executable_inode = 0;
  // What is at that path for the agent is that very file. A process in a mount namespace of its own
  // (anybody may have one) can have any path; one whose program was upgraded has a path, too.
  bool executable_in_place = false;
  std::string unit{};    // system unit of the cgroup; "" = none
  std::string cgroup{};  // path in the unified hierarchy; "" = none
  pid_t tracer = 0;      // 0 = not traced
  bool operator==(const Workload &) const = default;
};

// Reads /proc: all of it is of one process, the one with `caller`'s pid, or an error. `pidfd` is
// that of the process that wrote or connected, as the kernel passed it (SCM_PIDFD, SO_PEERPIDFD,
// Linux 6.5); with -1 a process that took over the pid since then is not noticed. The error is one
// line.
tl::expected<Workload, std::string> examine(const Caller &caller, int pidfd = -1);

// The same of whoever has this pid now, for a question about another process than the one that
// asks.
tl::expected<Workload, std::string> examine_any(pid_t pid);

// The file that executing `path` (absolute) would run, as the agent sees it.
struct Program {
  std::string path;  // without symbolic links
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
};
tl::expected<Program, std::string> look_at_program(const std::string &path);

// The start time of the process with this pid now; 0 when there is none.
std::uint64_t start_time_of(pid_t pid);

// The unit of the system's service manager that a cgroup belongs to: the outermost folder that is
// no slice. What lies below it is made by whoever the unit belongs to, a user for
// user@1000.service, under any name.
std::string unit_of_cgroup(std::string_view path);

}  // namespace inlay::identity::agent
