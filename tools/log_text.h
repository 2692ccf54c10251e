// One event as a line.
#pragma once

#include <string>

#include "tools/log_reader.h"

namespace inlay::tools {

// For a person; safe to show on a terminal, without a line end:
// TIME PROGRAM[PID] EVENT LOCAL <- REMOTE PEER-ID rule "NAME": SENTENCE (REASON; DETAIL)
std::string human_line(const ProcessLog &log, const LogEvent &event);

// One JSON object with the keys that `inlay log --help` lists, without a line end. ASCII only.
std::string json_line(const ProcessLog &log, const LogEvent &event);

// RFC 3339 in UTC with nanoseconds: "2026-01-02T03:04:05.000000006Z".
std::string rfc3339(std::int64_t time_ns);

}  // namespace inlay::tools
