// The command line of inlay-ca, which `inlay ca` executes with the same words.
#pragma once

#include <string>
#include <vector>

namespace inlay::identity::ca {

// `words`: behind the program's name. The exit code: 0 good, 1 failed, 2 usage.
int run_command(std::vector<std::string> words);

}  // namespace inlay::identity::ca
