// The executables `inlay` starts in its own place.
#pragma once

#include <string>
#include <vector>

namespace inlay::tools {

// Executes `name` (beside this executable, else in its build tree, else from PATH) with `words` as its arguments. Does not
// return; ends the command with 127 when there is none.
void become_companion(const std::string &name, std::vector<std::string> words);

}  // namespace inlay::tools
