// The selectors of an entry as text, KEY=VALUE: the keys of inlay-agent's [[entry]]. Which users
// and groups there are is for each node to say: names stay names here.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity::ca {

// Its normal form; the error is one line.
tl::expected<std::string, std::string> parse_selector(std::string_view text);

}  // namespace inlay::identity::ca
