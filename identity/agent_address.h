// How an agent's socket is named in configurations, environments and options:
// unix:///run/inlay/agent.sock (the SPIFFE Workload Endpoint's form, §4).
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity {

// Whether `text` is meant as a socket's address rather than a file's path.
bool is_agent_address(std::string_view text) noexcept;

// The absolute path in it. The error is one sentence without a final dot: what is wrong.
tl::expected<std::string, std::string> parse_agent_address(std::string_view text);

}  // namespace inlay::identity
