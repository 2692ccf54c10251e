// inlay enable and inlay disable: an existing service under inlay, and back.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "tools/commands.h"
#include "tools/drop_in.h"
#include "tools/enabled_services.h"
#include "tools/exit_code.h"
#include "tools/output_folder.h"
#include "tools/service_plan.h"
#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kEnableHelp =
    R"(Usage: inlay enable [OPTIONS] UNIT
       inlay enable --list [--user] [--json]

Puts a systemd service under inlay: a drop-in has its command started by `inlay run`. Shows the change
first, and what keeps the service from being protected; then nothing is changed. A service that runs is
started anew; if it does not come up, all is put back as it was.

Options:
  --user          a unit of this user's, instead of the system's
  --config FILE   as for inlay run; without it /etc/inlay/config.toml, then the agent at its socket
  --strict        as for inlay run
  --dry-run       show the change alone
  --yes           do not ask
  --no-restart    leave a running service as it is until it is started anew
  --force         replace a drop-in that somebody has changed
  --list          the services that are under inlay, and which of them are not started as their units say now:
                  the drop-in holds a copy of ExecStart=, and an upgrade may have brought another
  --json          one JSON object: unit, drop_in, before, after, changes, config, commands, refusals, notes,
                  restart, applied; asks nothing, needs --yes or --dry-run. With --list an array of unit,
                  drop_in, problem ("" for none), do

Example:
  inlay enable redis-server

Exit codes: 0 it is under inlay (or would be), 1 it is not, 2 usage. With --list 1 when one has a problem
)";

constexpr std::string_view kDisableHelp =
    R"(Usage: inlay disable [OPTIONS] UNIT

Takes back what `inlay enable` did: removes its drop-in, and starts the service anew if it runs.

Options:
  --user, --dry-run, --yes, --no-restart   as for inlay enable
  --force         remove a drop-in that somebody has changed
  --json          one JSON object: unit, drop_in, before, restart, applied

Exit codes: 0 it is not under inlay, 1 failed, 2 usage
)";

struct Options {
  ServiceRequest service;
  bool dry_run = false;
  bool yes = false;
  bool no_restart = false;
  bool force = false;
  bool list = false;
  bool json = false;
};

[[noreturn]] void fail(const std::string &message) {
  complain(message);
  throw Exit{kExitFailed};
}

// Asks on a terminal; a script says --yes.
bool is_wanted(const Options &options) {
  if (options.yes) return true;
  if (options.json || ::isatty(STDIN_FILENO) == 0) {
    throw UsageError{"nobody to ask: --yes makes the change, --dry-run shows it"};
  }
  fmt::print("Go on? [y/N] ");
  std::fflush(stdout);
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

void write_drop_in(const std::string &path, const std::optional<std::string> &text) {
  const std::filesystem::path file(path);
  if (!text) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      fail(fmt::format("cannot remove {}: {}", path, std::strerror(errno)));
    }
    ::rmdir(file.parent_path().c_str());  // when it is empty
    return;
  }
  auto folder = OutputFolder::open(file.parent_path(), 0755);
  if (!folder) fail(folder.error());
  auto put = folder->put(file.filename(), *text, 0644);
  if (put) put = folder->publish();
  if (!put) fail(put.error());
}

// Whether a line of such a file ends with this path; true where it cannot be read.
bool is_mapped(const std::string &maps, const std::string &path) {
  std::ifstream lines(maps);
  std::string line;
  bool any = false;
  while (std::getline(lines, line)) {
    any = true;
    if (line.ends_with(path)) return true;
  }
  return !any;
}

// Why a service that was started anew is not what it should be; "" when it is. `library`: what its
// main process must have in it.
std::string shortcoming(const Systemctl &systemd, const std::string &name,
                        const std::string &library) {
  std::error_code error;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto first = systemd.look_up(name);
  if (!first) return first.error();
  // At first the main process is systemd itself, then `inlay run`, then the command before its
  // loader has come to libinlay.so: milliseconds each, unless `inlay run` waits for its agent.
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kForItsAgent{30}, kForItsLoader{5};
  const Clock::time_point start = Clock::now();
  std::string executable;
  while (Clock::now() - start < (executable == self ? kForItsAgent : kForItsLoader)) {
    const auto unit = systemd.look_up(name);
    if (!unit) return unit.error();
    if (unit->result != "success" || unit->restarts > first->restarts || unit->active == "failed") {
      return fmt::format("{} does not come up ({})", name, unit->result);
    }
    const std::string process = fmt::format("/proc/{}", unit->main_pid);
    executable = std::filesystem::read_symlink(process + "/exe", error).string();
    if (unit->main_pid == 0 || error) {
      if (unit->active == "active" || unit->active == "inactive") return {};
    } else if (executable != self && (library.empty() || is_mapped(process + "/maps", library))) {
      return {};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (executable.empty()) return name + " does not come up";
  if (executable == self) return name + " does not come up: inlay run is still at it";
  return fmt::format("{} runs without libinlay.so in it", executable);
}

// Gives the drop-in this text (none: removes it), and starts the service anew. Why that failed, or
// "".
std::string apply(const Systemctl &systemd, const Unit &unit, const std::string &path,
                  const std::optional<std::string> &text, bool restart,
                  const std::string &library) {
  write_drop_in(path, text);
  if (auto reloaded = systemd.reload_units(); !reloaded) return reloaded.error();
  if (text) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const auto paths = systemd.executables(unit.name);
    if (!paths) return paths.error();
    for (const std::string &started : *paths) {
      if (started != self) return fmt::format("systemd would start {} all the same", started);
    }
  }
  if (!restart) return {};
  if (auto restarted = systemd.restart(unit.name); !restarted) return restarted.error();
  return shortcoming(systemd, unit.name, library);
}

void print_lines(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    fmt::print("  {}\n", printable(text.substr(0, end)));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
}

void print_plan(const ServicePlan &plan, bool restart) {
  fmt::print("{} {}\n", plan.path, plan.before ? "will be changed:" : "will be written:");
  print_lines(line_changes(plan.before.value_or(""), plan.after));
  for (const PlannedCommand &command : plan.commands) {
    for (const std::string &caution : command.cautions) {
      fmt::print("caution {}: {}\n", printable(command.program), printable(caution));
    }
  }
  for (const std::string &note : plan.notes) fmt::print("note {}\n", printable(note));
  fmt::print("{} {}\n", plan.unit.name,
             restart ? "runs, and will be started anew" : "is not started");
}

nlohmann::ordered_json json_of(const ServicePlan &plan) {
  nlohmann::ordered_json out;
  out["unit"] = plan.unit.name;
  out["drop_in"] = plan.path;
  out["before"] = plan.before.value_or("");
  out["after"] = plan.after;
  out["changes"] = plan.changes();
  out["config"] = plan.config;
  out["commands"] = nlohmann::ordered_json::array();
  for (const PlannedCommand &command : plan.commands) {
    out["commands"].push_back({{"exec_start", command.written},
                               {"program", command.program},
                               {"hindrance", command.hindrance},
                               {"cautions", command.cautions}});
  }
  out["refusals"] = plan.refusals;
  out["notes"] = plan.notes;
  return out;
}

void print_json(nlohmann::ordered_json out, bool restart, bool applied) {
  out["restart"] = restart;
  out["applied"] = applied;
  fmt::print("{}\n", out.dump(2, ' ', true, nlohmann::json::error_handler_t::replace));
}

void refuse_changed(const std::string &path, const std::optional<std::string> &text, bool force) {
  if (text && !force && !is_as_written(*text)) {
    fail(path + " has been changed since inlay wrote it; --force does it all the same");
  }
}

void refuse_unfit(const ServicePlan &plan) {
  if (plan.refusals.empty()) return;
  for (const std::string &refusal : plan.refusals) {
    complain(fmt::format("{}: {}", plan.unit.name, refusal));
  }
  throw Exit{kExitFailed};
}

void enable(const Options &options) {
  const Systemctl systemd(options.service.of_user);
  auto planned = plan_service(systemd, options.service);
  if (!planned) fail(planned.error());
  const ServicePlan &plan = *planned;
  const bool restart = plan.unit.is_running() && !options.no_restart && plan.changes();
  const bool unfit = !plan.refusals.empty();
  if (options.json && (options.dry_run || unfit || !plan.changes())) {
    print_json(json_of(plan), restart, false);
  }
  refuse_unfit(plan);
  if (!plan.changes()) {
    if (!options.json) fmt::print("{} is under inlay already: {}\n", plan.unit.name, plan.path);
    return;
  }
  refuse_changed(plan.path, plan.before, options.force);
  if (!options.json) print_plan(plan, restart);
  if (options.dry_run) return;
  if (!is_wanted(options)) throw Exit{kExitFailed};

  const std::string why = apply(systemd, plan.unit, plan.path, plan.after, restart, plan.library);
  if (!why.empty()) {
    const std::string words = restart ? systemd.last_words(plan.unit.name) : "";
    const std::string worse = apply(systemd, plan.unit, plan.path, plan.before, restart, "");
    for (std::string_view rest = words; !rest.empty();) {
      const std::size_t end = rest.find('\n');
      complain(fmt::format("{}: {}", plan.unit.name, rest.substr(0, end)));
      rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
    }
    if (!worse.empty()) complain(worse);
    fail(fmt::format("{}; all is as it was before", why));
  }
  if (options.json) return print_json(json_of(plan), restart, true);
  fmt::print("{} is under inlay\n", plan.unit.name);
}

void disable(const Options &options) {
  const Systemctl systemd(options.service.of_user);
  // The package of the service may be gone by now.
  auto unit = find_service(systemd, options.service.unit, false);
  if (!unit) fail(unit.error());
  const std::string path = fmt::format("{}/{}", systemd.drop_in_folder(unit->name), kDropInName);
  const auto before = read_drop_in(path);
  if (!before) fail(before.error());
  const bool restart = *before && unit->is_running() && !options.no_restart;
  nlohmann::ordered_json out = {
      {"unit", unit->name}, {"drop_in", path}, {"before", before->value_or("")}};
  if (!*before && unit->load == "not-found") fail("systemd knows no " + unit->name);
  if (!*before) {
    if (options.json) return print_json(std::move(out), false, false);
    return fmt::print("{} is not under inlay: there is no {}\n", unit->name, path);
  }
  refuse_changed(path, *before, options.force);
  if (!options.json) {
    fmt::print("{} will be removed:\n", path);
    print_lines(line_changes(**before, ""));
    fmt::print("{} {}\n", unit->name,
               restart ? "runs, and will be started anew" : "is not started");
  }
  if (options.dry_run) {
    if (options.json) print_json(std::move(out), restart, false);
    return;
  }
  if (!is_wanted(options)) throw Exit{kExitFailed};
  const std::string why = apply(systemd, *unit, path, std::nullopt, restart, "");
  if (!why.empty()) fail(why);
  if (options.json) return print_json(std::move(out), restart, true);
  fmt::print("{} is no longer under inlay\n", unit->name);
}

void list_services(const Options &options) {
  if (!options.service.unit.empty()) throw UsageError{"--list is about all services: no UNIT"};
  const auto services = enabled_services(options.service.of_user);
  bool good = true;
  auto json = nlohmann::ordered_json::array();
  for (const EnabledService &service : services) {
    good = good && service.problem.empty();
    json.push_back({{"unit", service.unit},
                    {"drop_in", service.drop_in},
                    {"problem", service.problem},
                    {"do", service.to_do}});
    if (options.json) continue;
    fmt::print("{}: {}\n", printable(service.unit),
               service.problem.empty() ? "under inlay" : printable(service.problem));
    if (!service.to_do.empty()) fmt::print("    {}\n", printable(service.to_do));
  }
  if (options.json) {
    fmt::print("{}\n", json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace));
  } else if (services.empty()) {
    fmt::print("no service is under inlay; inlay enable UNIT puts one there\n");
  }
  if (!good) throw Exit{kExitFailed};
}

std::shared_ptr<Options> shared_options(const Command &command) {
  auto options = std::make_shared<Options>();
  command.flag("--user", options->service.of_user);
  command.flag("--dry-run", options->dry_run);
  command.flag("--yes", options->yes);
  command.flag("--no-restart", options->no_restart);
  command.flag("--force", options->force);
  command.flag("--json", options->json);
  return options;
}

}  // namespace

void add_enable_commands(const Command &root) {
  const Command enables = root.subcommand("enable", kEnableHelp);
  auto options = shared_options(enables);
  enables.option("--config", options->service.config);
  enables.flag("--strict", options->service.strict);
  enables.option("UNIT", options->service.unit);
  enables.flag("--list", options->list);
  enables.callback([options] {
    if (options->list) return list_services(*options);
    if (options->service.unit.empty()) throw UsageError{"UNIT is required"};
    enable(*options);
  });
  const Command disables = root.subcommand("disable", kDisableHelp);
  auto others = shared_options(disables);
  disables.required_option("UNIT", others->service.unit);
  disables.callback([others] { disable(*others); });
}

}  // namespace inlay::tools
