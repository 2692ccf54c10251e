// Where the configuration is, and whether a workload can live by it.
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace inlay::tools {

// The absolute path of the configuration: `given` if not "", then $INLAY_CONFIG, then
// $XDG_CONFIG_HOME/inlay/config.toml (~/.config without it), then /etc/inlay/config.toml; where none of
// these is there, the address of an agent that has its socket at a standard place
// ("unix:///run/inlay/agent.sock"), which the first two may name as well. The error is one line.
tl::expected<std::string, std::string> find_config(const std::string &given);

}  // namespace inlay::tools
