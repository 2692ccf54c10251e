// One event as one line of JSON, for `[log] file`. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "policy/log_record.h"

namespace inlay::shim::boot {

// Every text field escaped at its worst (\u00XX per byte) still fits.
inline constexpr std::size_t kJsonLineSize = 3072;

// Writes the line with its newline; returns its length.
std::size_t format_json_line(const policy::LogRecord &record, std::uint32_t pid, char *line,
                             std::size_t size) noexcept;

}  // namespace inlay::shim::boot
