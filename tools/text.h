// Text for a person's terminal.
#pragma once

#include <string>
#include <string_view>

namespace inlay::tools {

// `text` with everything that could move a cursor, change a colour or reorder a line written as
// \xNN: C0 and C1 controls, bidirectional overrides, bytes that are not UTF-8. File names, peers'
// names and log records are other people's bytes.
std::string printable(std::string_view text);

// One line on stderr: "inlay: " and the message, made printable.
void complain(std::string_view message);

}  // namespace inlay::tools
