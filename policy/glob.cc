#include "policy/glob.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace inlay::policy {
namespace {

// A state is a position in the pattern. A set of them as bits: the automaton is in all at once, so
// there is no backtracking to blow up.
class States {
 public:
  explicit States(std::string_view pattern) : pattern_(pattern), words_(pattern.size() / 64 + 1) {
    std::fill_n(bits_.begin(), words_, 0);
  }

  // Adds `state` and what it reaches without a character: a star may stand for nothing.
  void add(std::size_t state) noexcept {
    bits_[state / 64] |= std::uint64_t{1} << (state % 64);
    while (state < pattern_.size() && pattern_[state] == '*') {
      state += star_length(state);
      bits_[state / 64] |= std::uint64_t{1} << (state % 64);
    }
  }

  // Into `next` (empty): the states after reading `c`. False when there are none.
  bool step(char c, States &next) const noexcept {
    bool any = false;
    for (std::size_t word = 0; word < words_; ++word) {
      for (std::uint64_t rest = bits_[word]; rest != 0; rest &= rest - 1) {
        std::size_t state = word * 64 + static_cast<std::size_t>(__builtin_ctzll(rest));
        if (state == pattern_.size()) continue;
        if (pattern_[state] == '*') {
          if (c == '/' && star_length(state) == 1) continue;
          next.add(state);
        } else {
          if (pattern_[state] != c) continue;
          next.add(state + 1);
        }
        any = true;
      }
    }
    return any;
  }

  bool at_end() const noexcept {
    return (bits_[pattern_.size() / 64] >> (pattern_.size() % 64) & 1) != 0;
  }

  void clear() noexcept { std::fill_n(bits_.begin(), words_, 0); }

 private:
  std::size_t star_length(std::size_t state) const noexcept {
    return state + 1 < pattern_.size() && pattern_[state + 1] == '*' ? 2 : 1;
  }

  std::string_view pattern_;
  std::size_t words_;
  std::array<std::uint64_t, kMaxGlobLength / 64 + 1> bits_;
};

}  // namespace

bool glob_matches(std::string_view pattern, std::string_view text) noexcept {
  if (pattern.size() > kMaxGlobLength) return false;
  if (pattern.find('*') == std::string_view::npos) return pattern == text;
  States first(pattern), second(pattern);
  States *now = &first, *next = &second;
  now->add(0);
  for (char c : text) {
    next->clear();
    if (!now->step(c, *next)) return false;
    std::swap(now, next);
  }
  return now->at_end();
}

}  // namespace inlay::policy
