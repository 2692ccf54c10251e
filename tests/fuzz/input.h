// Cuts a fuzzer's input into values. Past the end everything is 0 or empty.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <source_location>
#include <span>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);

namespace inlay::fuzz {

class Input {
 public:
  Input(const std::uint8_t *data, std::size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    std::uint8_t value = rest_.front();
    rest_ = rest_.subspan(1);
    return value;
  }
  std::uint16_t number() {
    std::uint8_t high = byte();
    return static_cast<std::uint16_t>(high << 8 | byte());
  }
  std::span<const std::uint8_t> bytes(std::size_t most) {
    auto taken = rest_.first(std::min(most, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::string_view text() {
    auto taken = bytes(rest_.size());
    return {reinterpret_cast<const char *>(taken.data()), taken.size()};
  }

 private:
  std::span<const std::uint8_t> rest_;
};

// A property that does not hold is a crash, which is what a fuzzer looks for.
inline void must(bool holds, std::source_location where = std::source_location::current()) {
  if (holds) return;
  std::fprintf(stderr, "%s:%u: does not hold\n", where.file_name(), static_cast<unsigned>(where.line()));
  __builtin_trap();
}

}  // namespace inlay::fuzz
