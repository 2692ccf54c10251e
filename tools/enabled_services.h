// The services that `inlay enable` put under inlay, and whether its drop-ins still do: ExecStart=
// in one is a copy, and the unit, or the order of its drop-ins, may have changed since.
#pragma once

#include <string>
#include <vector>

namespace inlay::tools {

struct EnabledService {
  std::string unit;
  std::string drop_in;  // its path
  std::string problem;  // one line; "" = it is as it should be
  std::string to_do;    // one line
};

// By name. Asks systemd only where there are such drop-ins.
std::vector<EnabledService> enabled_services(bool of_user);

}  // namespace inlay::tools
