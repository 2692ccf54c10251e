// The one pattern language of policy: `*` stands for any run of characters without "/", `**` for
// any run at all; both may be empty. Everything else is literal, "." and "?" included.
#pragma once

#include <cstddef>
#include <string_view>

namespace inlay::policy {

inline constexpr std::size_t kMaxGlobLength = 2048;

// Runs in O(pattern * text) whatever the pattern, without allocation: the text may come from a
// peer. A pattern longer than kMaxGlobLength matches nothing. Three stars in a row are `**` `*`.
bool glob_matches(std::string_view pattern, std::string_view text) noexcept;

}  // namespace inlay::policy
