// What stands behind a key of the agent's configuration: text in, a value or one line about it out.
#pragma once

#include <sys/types.h>

#include <ctime>
#include <string>
#include <string_view>

#include "policy/values.h"

namespace inlay::identity::agent {

policy::Value<std::time_t> parse_lifetime(std::string_view text);  // "90s", "15m", "1h", "1d"
policy::Value<std::string> parse_sha256(std::string_view text);
policy::Value<std::string> parse_executable(std::string_view text);
policy::Value<std::string> parse_listen(std::string_view text);
policy::Value<std::string> parse_glob(std::string_view text);
policy::Value<std::string> parse_est_url(std::string_view text);

// By the C library's tables, as they are now.
policy::Value<uid_t> user_named(const std::string &name);
policy::Value<gid_t> group_named(const std::string &name);

}  // namespace inlay::identity::agent
