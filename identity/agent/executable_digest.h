// SHA-256 of executables, read once for each version of a file.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tl/expected.hpp>

#include "identity/agent/workload.h"

namespace inlay::identity::agent {

// Programs larger than this have no digest: reading them would keep others waiting.
inline constexpr std::uint64_t kMaxHashedExecutable = std::uint64_t{1} << 30;  // bytes

// What tells one version of a file from the next.
struct ExecutableVersion {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t modified_ns = 0, changed_ns = 0;
  auto operator<=>(const ExecutableVersion &) const = default;
};

class ExecutableDigests {
 public:
  // Of /proc/PID/exe, if that is still the file `workload` was seen with. Lower-case hexadecimal,
  // or one line that says why not. Any thread.
  tl::expected<std::string, std::string> digest(const Workload &workload);
  // Of the file at `path`, if it is a regular one with this identity.
  tl::expected<std::string, std::string> digest_of(const std::string &path, std::uint64_t device,
                                                   std::uint64_t inode);

 private:
  static constexpr std::size_t kMostKept = 1024;

  std::mutex mutex_;
  std::map<ExecutableVersion, std::string> known_;
};

}  // namespace inlay::identity::agent
