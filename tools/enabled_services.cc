#include "tools/enabled_services.h"

#include <fmt/format.h>

#include "tools/drop_in.h"
#include "tools/service_plan.h"
#include "tools/systemctl.h"

namespace inlay::tools {
namespace {

void judge(const Systemctl &systemd, std::string_view with_options, EnabledService &service) {
  const auto say = [&](std::string problem, std::string to_do) {
    service.problem = std::move(problem);
    service.to_do = std::move(to_do);
  };
  const auto unit = systemd.look_up(service.unit);
  if (!unit) return say(unit.error(), "");
  if (unit->load == "not-found") {
    return say("there is no such service any more",
               fmt::format("inlay disable {}{}", with_options, service.unit));
  }
  const std::string enables = fmt::format("inlay enable {}{}", with_options, service.unit);
  if (const std::string later = later_command(*unit, service.drop_in); !later.empty()) {
    return say(
        fmt::format("it is started as {} says, which comes later and sets ExecStart=", later),
        fmt::format("rename that file, then {}", enables));
  }
  const auto text = read_drop_in(service.drop_in);
  const auto settings = settings_of(*unit, service.drop_in);
  if (!text || !settings) return say(text ? settings.error() : text.error(), "");
  if (settings->list("Service", "ExecStart") != commands_replaced(text->value_or(""))) {
    say("its ExecStart= is another one since inlay enable copied it, and is not what is started",
        fmt::format("{} shows the difference and takes it over", enables));
  }
}

}  // namespace

std::vector<EnabledService> enabled_services(bool of_user) {
  const Systemctl systemd(of_user);
  std::vector<EnabledService> services;
  for (std::string &unit : units_with_drop_in(of_user, kDropInName)) {
    EnabledService service{.unit = std::move(unit), .drop_in = "", .problem = "", .to_do = ""};
    service.drop_in = fmt::format("{}/{}", systemd.drop_in_folder(service.unit), kDropInName);
    judge(systemd, of_user ? "--user " : "", service);
    services.push_back(std::move(service));
  }
  return services;
}

}  // namespace inlay::tools
