#include "tools/service_plan.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "identity/agent_address.h"
#include "identity/agent_client.h"
#include "identity/file.h"
#include "policy/trusted_file.h"
#include "tools/drop_in.h"
#include "tools/exec_line.h"
#include "tools/preload.h"
#include "tools/settings.h"
#include "tools/unit_sandbox.h"

namespace inlay::tools {
namespace {

using Failure = tl::unexpected<std::string>;

constexpr std::size_t kMostOfAFile = 1 << 20;
constexpr const char *kSystemConfig = "/etc/inlay/config.toml";
constexpr const char *kAgentUnit = "inlay-agent.service";
// An account that may do nothing, for services whose own does not exist before they start.
constexpr uid_t kNobody = 65534;

// Named in the drop-in, so that nothing in the service's environment or home decides it.
tl::expected<std::string, std::string> config_for(const ServiceRequest &request) {
  if (request.of_user || !request.config.empty()) return find_config(request.config);
  if (::access(kSystemConfig, F_OK) == 0) return kSystemConfig;
  const std::string socket = identity::standard_agent_sockets().front();
  if (::access(socket.c_str(), F_OK) == 0) return "unix://" + socket;
  return Failure(fmt::format("no configuration: give --config FILE, write {}, or start {}",
                             kSystemConfig, kAgentUnit));
}

// As whom the service's commands run.
struct Account {
  bool becomes = false;
  uid_t user = 0;
  gid_t group = 0;
  bool no_new_privileges = false;
};

tl::expected<Account, std::string> account_of(const UnitSettings &settings, bool of_user) {
  Account account;
  const bool dynamic = settings.is_on("Service", "DynamicUser");
  account.no_new_privileges = dynamic || settings.is_on("Service", "NoNewPrivileges");
  const std::string name = settings.last("Service", "User");
  if (of_user || (name.empty() && !dynamic)) return account;
  account.becomes = true;
  account.user = kNobody;
  account.group = kNobody;
  const passwd *entry = ::getpwnam(name.c_str());
  if (entry == nullptr && !name.empty() && name.find_first_not_of("0123456789") == name.npos) {
    entry = ::getpwuid(static_cast<uid_t>(std::stoul(name)));
  }
  if (entry == nullptr && !dynamic) return Failure(fmt::format("User={}: no such user", name));
  if (entry != nullptr) {
    account.user = entry->pw_uid;
    account.group = entry->pw_gid;
  }
  return account;
}

// In a child, before it becomes `inlay doctor`.
void become(const void *argument) {
  const Account &account = *static_cast<const Account *>(argument);
  if (account.becomes && (::setgroups(0, nullptr) != 0 ||
                          ::setresgid(account.group, account.group, account.group) != 0 ||
                          ::setresuid(account.user, account.user, account.user) != 0)) {
    ::_exit(127);
  }
  if (account.no_new_privileges) ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

// What `inlay doctor` says to the service's own user. What an agent says to that process counts for
// nothing: it is not the unit's.
void examine(const std::string &inlay, const std::string &config, const Account &account,
             PlannedCommand &command) {
  const Output output = output_of(
      {inlay, "doctor", "--json", "--config", config, "--", command.program}, become, &account);
  const auto report = nlohmann::json::parse(output.out, nullptr, false);
  if (!report.is_object()) {
    command.hindrance = fmt::format("inlay doctor could not look at {}: {}", command.program,
                                    output.errors.substr(0, output.errors.find('\n')));
    return;
  }
  const std::string by = report.value("hindered_by", "");
  const bool is_agents = by == "identity" && identity::is_agent_address(config);
  if (!by.empty() && !is_agents) command.hindrance = report.value("verdict", "");
  for (const auto &note : report["notes"]) {
    if (note.value("severity", "") != "caution") continue;
    command.cautions.push_back(
        fmt::format("{}: {}", note.value("about", ""), note.value("text", "")));
  }
}

// Whoever may change what the service starts from now on may do what the service may.
void judge_files(const SandboxNeeds &needs, ServicePlan &plan) {
  for (const std::string *path : {&needs.command, &needs.library}) {
    const auto opened = policy::open_trusted(*path, {});
    if (!opened) plan.refusals.push_back(fmt::format("{}: {}", *path, opened.error()));
  }
}

// They are left alone: most send a signal or use a Unix socket, and a service must be stopped and
// reloaded while its agent is away, too.
void note_other_commands(const UnitSettings &settings, const std::string &inlay,
                         ServicePlan &plan) {
  for (const char *key : {"ExecCondition", "ExecStartPre", "ExecStartPost", "ExecReload",
                          "ExecStop", "ExecStopPost"}) {
    for (const std::string &value : settings.list("Service", key)) {
      const auto lines = parse_exec_lines(value);
      const bool is_ours = lines && std::ranges::all_of(*lines, [&](const ExecLine &line) {
                             return line.program == inlay;
                           });
      if (is_ours) continue;
      plan.notes.push_back(fmt::format("not under inlay: {}={}", key, value));
    }
  }
}

tl::expected<std::vector<std::string>, std::string> exec_starts(const UnitSettings &settings,
                                                                const ServiceRequest &request,
                                                                const std::string &inlay,
                                                                ServicePlan &plan) {
  const auto account = account_of(settings, request.of_user);
  if (!account) return Failure(account.error());
  std::vector<std::string> run = {inlay, "run", "--config", plan.config};
  if (request.strict) run.emplace_back("--strict");
  std::vector<std::string> lines;
  for (const std::string &value : settings.list("Service", "ExecStart")) {
    const auto parsed = parse_exec_lines(value);
    if (!parsed) return Failure(fmt::format("ExecStart={}: {}", value, parsed.error()));
    for (const ExecLine &line : *parsed) {
      lines.push_back(started_by(run, line));
      PlannedCommand command{.written = value, .program = "", .hindrance = "", .cautions = {}};
      auto program = with_specifiers(line.program, plan.unit.name);
      if (!program) return Failure(fmt::format("ExecStart={}: {}", value, program.error()));
      command.program = *std::move(program);
      // "+" and "!" keep root's own.
      const bool as_root = line.prefix.find_first_of("+!") != line.prefix.npos;
      examine(inlay, plan.config, as_root ? Account{} : *account, command);
      plan.commands.push_back(std::move(command));
    }
  }
  if (lines.empty()) return Failure(fmt::format("{} has no ExecStart=", plan.unit.name));
  return lines;
}

}  // namespace

tl::expected<UnitSettings, std::string> settings_of(const Unit &unit, const std::string &except) {
  UnitSettings settings;
  std::vector<std::string> files = {unit.file};
  files.insert(files.end(), unit.drop_ins.begin(), unit.drop_ins.end());
  for (const std::string &file : files) {
    if (file == except) continue;
    auto content = identity::read_file(file, kMostOfAFile);
    if (!content) return Failure(fmt::format("{}: {}", file, content.error()));
    settings.add(content->bytes);
  }
  return settings;
}

std::string later_command(const Unit &unit, const std::string &path) {
  const auto name = [](const std::string &file) {
    return std::filesystem::path(file).filename().string();
  };
  for (const std::string &file : unit.drop_ins) {
    if (file == path || name(file) <= name(path)) continue;
    auto content = identity::read_file(file, kMostOfAFile);
    if (!content) continue;
    for (const UnitSetting &setting : parse_unit_file(content->bytes)) {
      if (setting.section == "Service" && setting.key == "ExecStart") return file;
    }
  }
  return {};
}

tl::expected<Unit, std::string> find_service(const Systemctl &systemd, const std::string &given,
                                             bool loaded) {
  std::string name = given;
  if (std::filesystem::path(name).extension().empty()) name += ".service";
  if (!name.ends_with(".service")) return Failure(given + " is no service");
  if (name.find("@.") != name.npos) {
    return Failure(fmt::format("{} is a template: name one of its instances", name));
  }
  auto unit = systemd.look_up(name);
  if (!unit || !loaded) return unit;
  if (unit->load == "not-found") return Failure(fmt::format("systemd knows no {}", name));
  if (unit->load != "loaded") {
    return Failure(
        fmt::format("{} is not loaded ({}): systemctl status {} says why", name, unit->load, name));
  }
  if (unit->file.empty()) return Failure(fmt::format("{} has no file; systemd made it", name));
  if (unit->name.starts_with("inlay-")) {
    return Failure(
        fmt::format("{} is inlay's own: others get their identities from it", unit->name));
  }
  return std::move(*unit);
}

tl::expected<std::optional<std::string>, std::string> read_drop_in(const std::string &path) {
  auto content = identity::read_file(path, kMostOfAFile);
  if (content) return std::optional(content->bytes);
  if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) return std::optional<std::string>();
  return Failure(fmt::format("{}: {}", path, content.error()));
}

tl::expected<ServicePlan, std::string> plan_service(const Systemctl &systemd,
                                                    const ServiceRequest &request) {
  ServicePlan plan;
  auto unit = find_service(systemd, request.unit);
  if (!unit) return Failure(unit.error());
  plan.unit = *std::move(unit);
  plan.path = fmt::format("{}/{}", systemd.drop_in_folder(plan.unit.name), kDropInName);
  auto before = read_drop_in(plan.path);
  if (!before) return Failure(before.error());
  plan.before = *std::move(before);
  auto library = find_library();
  if (!library) return Failure(library.error());
  plan.library = *library;
  auto config = config_for(request);
  if (!config) return Failure(config.error());
  plan.config = *std::move(config);
  const auto settings = settings_of(plan.unit, plan.path);
  if (!settings) return Failure(settings.error());

  std::error_code error;
  SandboxNeeds needs;
  needs.strict = request.strict;
  needs.command = std::filesystem::read_symlink("/proc/self/exe", error).string();
  needs.library = std::filesystem::canonical(*library, error).string();
  const bool from_agent = identity::is_agent_address(plan.config);
  if (from_agent) {
    needs.agent = identity::parse_agent_address(plan.config).value_or("");
  } else {
    needs.config = plan.config;
  }
  const SandboxJudgement sandbox = judge_sandbox(
      *settings, needs,
      parse_system_call_groups(output_of({"systemd-analyze", "--no-pager", "syscall-filter"}).out));
  plan.refusals = sandbox.refusals;
  judge_files(needs, plan);
  if (const std::string later = later_command(plan.unit, plan.path); !later.empty()) {
    plan.refusals.push_back(fmt::format("{} comes later and sets ExecStart=: rename it", later));
  }

  DropIn drop_in{.unit = plan.unit.name,
                 .of_user = request.of_user,
                 .instead_of = settings->list("Service", "ExecStart"),
                 .additions = sandbox.additions};
  auto lines = exec_starts(*settings, request, needs.command, plan);
  if (!lines) return Failure(lines.error());
  drop_in.exec_starts = *std::move(lines);
  if (const auto agent = systemd.look_up(kAgentUnit);
      from_agent && agent && agent->load == "loaded") {
    drop_in.after = kAgentUnit;
  }
  plan.after = drop_in_text(drop_in);
  for (const PlannedCommand &command : plan.commands) {
    if (!command.hindrance.empty()) {
      plan.refusals.push_back(fmt::format("{} {}", command.program, command.hindrance));
    }
  }
  note_other_commands(*settings, needs.command, plan);
  return plan;
}

}  // namespace inlay::tools
