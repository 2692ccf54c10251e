// The command line of inlay-agent, which `inlay agent` executes with the same words.
#pragma once

#include <string>
#include <vector>

namespace inlay::identity::agent {

// `words`: behind the program's name. The exit code: 0 good, 1 failed, 2 usage.
int run_command(std::vector<std::string> words);

}  // namespace inlay::identity::agent
