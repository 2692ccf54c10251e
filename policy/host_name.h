// Host names as rules and learned pairs hold them: lower case, no final dot.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace inlay::policy {

// "Redis.Internal." -> "redis.internal". Empty for what is no host name: other characters than
// letters, digits, "-", "_" and ".", an empty label, more than 253 bytes, or a last label that
// makes it an address in one of inet_aton's spellings ("127.1", "0x7f000001", "2130706433").
std::optional<std::string> normal_host_name(std::string_view name);

// Equal but for case and a final dot. No allocation.
bool same_host_name(std::string_view a, std::string_view b) noexcept;

}  // namespace inlay::policy
