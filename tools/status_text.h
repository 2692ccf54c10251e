// The agent's report (identity/agent/status_report.h) as a person reads it: one screen.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::tools {

struct Status {
  bool ready = false;  // every identity has an SVID that has not expired
  std::string text;    // lines, safe to show on a terminal
  std::string json;    // the report in one line of ASCII
};

// The error is one line: the report is not what an agent of this version writes.
tl::expected<Status, std::string> read_status(std::string_view report);

// "in 42 min", "in 6 days", "3 s ago", "now"
std::string span_text(long long seconds);

}  // namespace inlay::tools
