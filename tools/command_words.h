// The command line inside a command line: `inlay run --config FILE -- COMMAND ARG…`. Everything
// from COMMAND on belongs to it, whatever it looks like, so it is cut off before options are
// parsed.
#pragma once

#include <string>
#include <vector>

namespace inlay::tools {

struct SplitWords {
  std::vector<std::string> own;      // what inlay parses, without a closing "--"
  std::vector<std::string> command;  // COMMAND [ARG…]; empty when there is none
};

// `words`: everything after "inlay run" or "inlay doctor". The command starts after the first "--",
// or at the first word that is neither an option nor the value of one.
SplitWords split_command(const std::vector<std::string> &words);

// The command cut off from this process's arguments; set by main() before parsing.
std::vector<std::string> &command_words();

}  // namespace inlay::tools
