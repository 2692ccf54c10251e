// Reading /proc: paths without a formatter, and folders whose entries are numbers.
#pragma once

#include <fcntl.h>

#include <cstdint>
#include <cstring>
#include <span>

#include "shim/arena/kernel.h"
#include "shim/boot/own_table.h"

namespace inlay::shim {

// Text built from the right: ProcPath().before("/fd").before(12).before("/proc/").
class ProcPath {
 public:
  ProcPath() noexcept { *begin_ = '\0'; }
  ProcPath &before(const char *text) noexcept {
    std::size_t length = std::strlen(text);
    begin_ -= length;
    std::memcpy(begin_, text, length);
    return *this;
  }
  ProcPath &before(std::uint32_t number) noexcept {
    do {
      *--begin_ = static_cast<char>('0' + number % 10);
    } while ((number /= 10) != 0);
    return *this;
  }
  const char *text() const noexcept { return begin_; }

 private:
  char bytes_[64];
  char *begin_ = bytes_ + sizeof(bytes_) - 1;
};

// The beginning of a small file, ended by a zero. What read() said, negative errno on failure.
inline long read_proc(const ProcPath &path, std::span<char> text) noexcept {
  long got = 0;
  boot::in_own_table([&] {
    long fd = kernel::call(SYS_openat, AT_FDCWD, kernel::word(path.text()), O_RDONLY | O_CLOEXEC);
    got = fd < 0 ? fd
                 : kernel::call(SYS_read, fd, kernel::word(text.data()),
                                static_cast<long>(text.size() - 1));
    if (fd >= 0) kernel::close(static_cast<int>(fd));
  });
  text[got > 0 ? static_cast<std::size_t>(got) : 0] = '\0';
  return got;
}

// Calls visit(number) for each entry that is one, until it returns false.
template <typename F>
void for_each_number(int folder, F &&visit) noexcept {
  // linux_dirent64: inode, offset, length of the entry, type, name.
  constexpr long kLengthAt = 16, kNameAt = 19;
  alignas(std::uint64_t) char entries[2048];
  for (;;) {
    long got = kernel::call(SYS_getdents64, folder, kernel::word(entries), sizeof entries);
    if (got <= 0) return;
    for (long at = 0; at < got;) {
      std::uint16_t length;
      std::memcpy(&length, entries + at + kLengthAt, sizeof length);
      std::uint32_t number = 0;
      const char *name = entries + at + kNameAt;
      for (; *name >= '0' && *name <= '9'; ++name) {
        number = number * 10 + static_cast<std::uint32_t>(*name - '0');
      }
      if (*name == '\0' && !visit(number)) return;
      at += length;
    }
  }
}

}  // namespace inlay::shim
