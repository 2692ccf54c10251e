// What an agent will say to a program that is about to start: asked beforehand, so that a refusal
// is one line on the terminal and not a connection that fails later.
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace inlay::tools {

// Asks the agent at `socket` (a path) who a process of this user would be, were it `executable`.
// What the agent says, its SPIFFE ID first; the error is one line.
tl::expected<std::string, std::string> ask_agent(const std::string &socket,
                                                 const std::string &executable);

}  // namespace inlay::tools
