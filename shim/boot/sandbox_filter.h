// A seccomp filter that a program puts itself under, made to let through what inlay says in its
// stead. Where the program may read(2) and write(2), whatever the descriptor, a managed connection
// needs their equals: recvfrom and sendto without an address and with harmless flags, and calls
// that only ask. Nothing is let through that does more than what the filter allows already, but for
// what one may learn by asking: the addresses of a socket it has, and (kill with signal 0) which
// process numbers are in use. A call the filter leaves to a tracer or a supervisor stays theirs. A
// filter that looks at the arguments of read or write, or refuses one of them, stays as it is.
#pragma once

#include <linux/filter.h>

#include <cstddef>
#include <span>

namespace inlay::shim::boot {

// Whether the filter allows read and write whatever their arguments.
bool allows_reading_and_writing(std::span<const sock_filter> filter) noexcept;

// What goes in front of `filter`. Returns the number of instructions, at most kAheadLimit.
inline constexpr std::size_t kAheadLimit = 128;
std::size_t write_ahead(std::span<const sock_filter> filter,
                        std::span<sock_filter, kAheadLimit> out) noexcept;

// The filter to install in place of the program's own: a wider copy, or that itself (also null).
class WiderFilter {
 public:
  explicit WiderFilter(const sock_fprog *own) noexcept;
  ~WiderFilter();
  WiderFilter(const WiderFilter &) = delete;
  WiderFilter &operator=(const WiderFilter &) = delete;

  const sock_fprog *program() const noexcept { return installed_; }

 private:
  const sock_fprog *installed_;
  sock_fprog wider_{};
  std::size_t mapped_ = 0;  // bytes
  bool may_unmap_ = false;
};

}  // namespace inlay::shim::boot
