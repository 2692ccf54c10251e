// The drop-in of `inlay enable`: what it says, and whether somebody has changed it since.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace inlay::tools {

// Its name sorts behind what others are called, override.conf of `systemctl edit` too: a later
// ExecStart= would take ours back.
inline constexpr std::string_view kDropInName = "zz-inlay.conf";

struct DropIn {
  std::string unit;                       // for the words in it
  bool of_user = false;                   // a unit of a user
  std::string after{};                    // a unit to start before it, "" = none
  std::vector<std::string> instead_of{};  // ExecStart= of the unit, as written there
  std::vector<std::string> exec_starts{};
  std::vector<std::string> additions{};  // further lines of [Service]
};
std::string drop_in_text(const DropIn &drop_in);

// What `instead_of` was.
std::vector<std::string> commands_replaced(std::string_view text);

// Whether it is as drop_in_text() wrote it, whatever for.
bool is_as_written(std::string_view text);

// One text made into another, line by line: "  " both, "- " the first's, "+ " the second's.
std::string line_changes(std::string_view before, std::string_view after);

}  // namespace inlay::tools
