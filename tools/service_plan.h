// What `inlay enable` would do to a unit, and why it would not: everything is judged before
// anything is written.
#pragma once

#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "tools/systemctl.h"
#include "tools/unit_file.h"

namespace inlay::tools {

struct ServiceRequest {
  std::string unit;  // as given; ".service" may be missing
  bool of_user = false;
  std::string config;  // "" = found
  bool strict = false;
};

struct PlannedCommand {
  std::string written;  // ExecStart= of the unit
  std::string program;
  std::string hindrance;  // why it cannot be protected; "" = it can
  std::vector<std::string> cautions;
};

struct ServicePlan {
  Unit unit;
  std::string path;                   // of the drop-in
  std::optional<std::string> before;  // what is there now
  std::string after;
  std::string config;  // for `inlay run --config`
  std::string library;
  std::vector<PlannedCommand> commands;
  std::vector<std::string> refusals;  // a sentence each; enable does nothing when there is one
  std::vector<std::string> notes;

  bool changes() const { return before != after; }
};

// Only of a service; `loaded`: that systemd knows, and could start. The error is one line.
tl::expected<Unit, std::string> find_service(const Systemctl &systemd, const std::string &given,
                                             bool loaded = true);

// What its own file and its drop-ins say, but for the one at `except`.
tl::expected<UnitSettings, std::string> settings_of(const Unit &unit, const std::string &except);

// The drop-in that comes after the one at `path` and would take its ExecStart= back; "" = none.
std::string later_command(const Unit &unit, const std::string &path);

// What is at `path`; nullopt when nothing is.
tl::expected<std::optional<std::string>, std::string> read_drop_in(const std::string &path);

tl::expected<ServicePlan, std::string> plan_service(const Systemctl &systemd,
                                                    const ServiceRequest &request);

}  // namespace inlay::tools
