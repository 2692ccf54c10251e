// JSON that two readers cannot take for two different things: well-formed, each name once in its
// object, not nested deeply. Include it in .cc files alone: the parser is slow to compile.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity {

// The error is one line that continues "the file is not usable: …".
tl::expected<nlohmann::json, std::string> parse_strict_json(std::string_view text);

// Null when `object` has no such member.
const nlohmann::json *json_member(const nlohmann::json &object, const char *name);
// Empty when it has none, or one that is no string.
std::string_view json_text(const nlohmann::json &object, const char *name);

}  // namespace inlay::identity
