// The agent itself: its parts put together, from its start to its end.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace inlay::identity::agent {

// Serves until SIGTERM or SIGINT; SIGHUP reloads. The exit code, after having said on standard
// error what went wrong. `owners`: further ones who may own configurations.
int run_agent(const std::string &config_file, const std::vector<uid_t> &owners);

}  // namespace inlay::identity::agent
