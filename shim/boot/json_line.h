// One event as one line of JSON, for `[log] file`. No allocation.
#pragma once

#include <cstddef>

#include "policy/log_record.h"

namespace inlay::shim::boot {

// Every text field escaped at its worst (\u00XX per byte) still fits.
inline constexpr std::size_t kJsonLineSize = 6144;

// Writes the line with its newline; returns its length. Keys as `inlay log --json` has them; those
// without a value are left out. `process`: the header of the process's file.
std::size_t format_json_line(const policy::LogRecord &record, const policy::LogFile &process,
                             char *line, std::size_t size) noexcept;

}  // namespace inlay::shim::boot
