// The agent's report (identity/agent/status_report.h) as a person reads it: one screen.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::tools {

struct Status {
  bool ready = false;  // every identity has an SVID that has not expired
  std::string text;    // lines, safe to show on a terminal
  std::string json;    // the report in one line of ASCII
};

// What is wrong on this machine that its agent does not know of. Each one line.
struct LocalProblem {
  std::string what;
  std::string to_do;
};

// The error is one line: the report is not what an agent of this version writes. `local` come last
// among its problems, as warnings.
tl::expected<Status, std::string> read_status(std::string_view report,
                                              const std::vector<LocalProblem> &local = {});

// "in 42 min", "in 6 days", "3 s ago", "now"
std::string span_text(long long seconds);

}  // namespace inlay::tools
