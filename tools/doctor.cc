// inlay doctor: what `inlay run` would do with a command, without doing it.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "identity/agent_address.h"
#include "policy/load.h"
#include "tools/agent_check.h"
#include "tools/cautions.h"
#include "tools/command_words.h"
#include "tools/commands.h"
#include "tools/exit_code.h"
#include "tools/identity_check.h"
#include "tools/loaded_objects.h"
#include "tools/preload.h"
#include "tools/program.h"
#include "tools/settings.h"
#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kHelp =
    R"(Usage: inlay doctor [OPTIONS] [--] COMMAND [ARG…]

Says what `inlay run` would do with a command, without starting it: whether libinlay.so gets into the
program, what the program uses that inlay cannot protect, what --strict would change for it, and whether
configuration and identity are good.

Options:
  --config FILE        as for inlay run
  --config-owner UID   as for inlay run
  --json               one JSON object: command, path, chain, machine, loader, library, config,
                       identity, notes, strict, protected, hindered_by (program, library, config or
                       identity; "" for nothing), verdict

Example:
  inlay doctor --config redis.toml redis-server

Exit codes: 0 it will be protected, 1 it will not, 2 usage
)";

struct Options {
  std::string config;
  std::vector<uid_t> owners;
  bool json = false;
};

struct Report {
  std::vector<std::string> command;
  std::optional<Program> program;
  std::string program_error;
  std::string library, library_error;
  std::string config, config_error;
  std::optional<policy::Policy> policy;
  std::optional<CheckedIdentity> identity;
  std::string identity_error;
  std::string agent;  // what it says, where the identity is from one
  std::vector<Caution> cautions;

  // The first thing that keeps the command from being protected; both "" when nothing does.
  struct Hindrance {
    std::string by;
    std::string why;
  };
  Hindrance hindrance() const {
    if (!program_error.empty()) return {"program", program_error};
    if (!program->obstacle.empty()) {
      return {"program", program->chain.back() + " " + program->obstacle};
    }
    if (!library_error.empty()) return {"library", library_error};
    if (!config_error.empty()) return {"config", config_error};
    if (!identity_error.empty()) return {"identity", identity_error};
    return {};
  }
};

void examine_objects(Report &report) {
  const std::string &file = report.program->chain.back();
  auto loaded = loaded_objects(file);
  std::vector<ExaminedObject> objects = {{file, report.program->image}};
  if (loaded) {
    for (const std::string &path : loaded->paths) {
      auto image = read_elf(path, Imports::read);
      if (image) objects.push_back({path, std::move(*image)});
    }
    for (const std::string &name : loaded->missing) {
      report.cautions.push_back({Severity::caution,
                                 "missing library",
                                 "the program will not start before " + name + " is found",
                                 {file}});
    }
  }
  std::vector<Caution> signs = cautions_of(objects);
  std::move(signs.begin(), signs.end(), std::back_inserter(report.cautions));
}

// A key only root can read is out of reach for a program that gave root up: it keeps what it has
// read, but neither notices a renewed SVID nor can anything it starts read the files.
void examine_privilege_drop(Report &report) {
  struct stat key {};
  if (::geteuid() != 0 || !report.policy || !report.program) return;
  if (::stat(report.policy->identity.key.c_str(), &key) != 0 || key.st_uid != 0) return;
  const auto &imports = report.program->image.imports;
  auto drops = [](const std::string &name) {
    return name == "setuid" || name == "setresuid" || name == "setreuid" || name == "seteuid";
  };
  if (std::none_of(imports.begin(), imports.end(), drops)) return;
  report.cautions.push_back(
      {Severity::caution,
       "privileges",
       "if it gives up root it can no longer read " + report.policy->identity.key +
           ": it works until its SVID expires, then refuses; start it as its own user, or give its "
           "group the key (chgrp, chmod 0640)",
       {report.program->chain.back()}});
}

void examine_agent(Report &report, const std::string &socket) {
  if (!report.program) return;
  auto answer = ask_agent(socket, report.program->chain.back());
  (answer ? report.agent : report.identity_error) = answer ? *answer : answer.error();
}

Report make_report(const Options &options, const std::vector<std::string> &command) {
  Report report;
  report.command = command;
  auto program = examine(command[0], Imports::read);
  if (program) {
    report.program = std::move(*program);
    if (report.program->obstacle.empty()) examine_objects(report);
  } else {
    report.program_error = program.error().message;
  }
  auto library = find_library();
  (library ? report.library : report.library_error) = library ? *library : library.error();

  auto config = find_config(options.config);
  if (!config) {
    report.config_error = config.error();
    return report;
  }
  report.config = *config;
  if (identity::is_agent_address(*config)) {
    auto socket = identity::parse_agent_address(*config);
    if (socket) {
      examine_agent(report, *socket);
    } else {
      report.config_error = *config + ": " + socket.error();
    }
    return report;
  }
  auto policy = policy::load(*config, options.owners);
  if (!policy) {
    report.config_error = policy.error().text();
    return report;
  }
  report.policy = std::move(*policy);
  if (!report.policy->identity.agent.empty()) {
    examine_agent(report, report.policy->identity.agent);
    return report;
  }
  auto identity = check_identity(*report.policy, std::time(nullptr));
  if (identity) {
    report.identity = *identity;
  } else {
    report.identity_error = identity.error();
  }
  examine_privilege_drop(report);
  return report;
}

std::string duration(std::time_t seconds) {
  if (seconds >= 2 * 86400) return fmt::format("{} days", seconds / 86400);
  if (seconds >= 2 * 3600) return fmt::format("{} hours", seconds / 3600);
  if (seconds >= 2 * 60) return fmt::format("{} minutes", seconds / 60);
  return fmt::format("{} seconds", seconds);
}

std::string_view text(policy::Mode mode) {
  switch (mode) {
    case policy::Mode::plaintext:
      return "plaintext";
    case policy::Mode::strict:
      return "strict";
    case policy::Mode::deny:
      return "deny";
  }
  return "unknown";
}

std::string verdict(const Report &report) {
  const std::string hindrance = report.hindrance().why;
  if (!hindrance.empty()) return "will not be protected: " + hindrance;
  auto careful = [](const Caution &caution) { return caution.severity == Severity::caution; };
  auto count = std::count_if(report.cautions.begin(), report.cautions.end(), careful);
  if (count == 0) return "will be protected";
  return fmt::format("will be protected, with {} caution{}", count, count == 1 ? "" : "s");
}

std::vector<std::string> effects_of_strict(const Report &report) {
  if (!report.program) return {};
  return strict_effects(report.cautions, report.program->obstacle.empty());
}

void print_field(std::string_view name, const std::string &value) {
  fmt::print("{:<10} {}\n", name, printable(value));
}

std::string names_of(const std::vector<std::string> &objects) {
  std::string names;
  for (std::size_t i = 0; i < objects.size() && i < 3; ++i) {
    names += (i == 0 ? "" : ", ") + objects[i].substr(objects[i].find_last_of('/') + 1);
  }
  if (objects.size() > 3) names += fmt::format(" and {} more", objects.size() - 3);
  return names;
}

void print_human(const Report &report) {
  print_field("command", fmt::format("{}", fmt::join(report.command, " ")));
  if (report.program) {
    print_field("program", fmt::format("{}", fmt::join(report.program->chain, ", run by ")));
    const ElfImage &image = report.program->image;
    if (image.bits != 0) {
      bool dynamic = !image.interpreter.empty();
      print_field("kind", fmt::format("{}, {}", machine_name(image.machine),
                                      dynamic ? "dynamically linked (" + image.interpreter + ")"
                                              : "statically linked"));
    }
  }
  print_field("library", report.library.empty() ? report.library_error : report.library);
  if (report.policy) {
    print_field(
        "config",
        fmt::format("{}: good; {} inbound and {} outbound rules, defaults inbound "
                    "{}, outbound {}",
                    report.config, report.policy->inbound.size(), report.policy->outbound.size(),
                    text(report.policy->defaults.inbound), text(report.policy->defaults.outbound)));
  } else {
    print_field("config", report.config_error.empty() ? report.config + ": the agent's"
                                                      : report.config_error);
  }
  if (!report.agent.empty()) {
    print_field("identity", report.agent + ", from the agent");
  } else if (report.identity) {
    print_field("identity", fmt::format("{}, expires {} (in {})", report.identity->id,
                                        utc_time(report.identity->not_after),
                                        duration(report.identity->not_after - std::time(nullptr))));
  } else if (!report.identity_error.empty()) {
    print_field("identity", report.identity_error);
  }
  for (const Caution &caution : report.cautions) {
    print_field(caution.severity == Severity::caution ? "caution" : "note",
                fmt::format("{} ({}): {}", caution.about, names_of(caution.objects), caution.text));
  }
  for (const std::string &effect : effects_of_strict(report)) print_field("--strict", effect);
  print_field("verdict", verdict(report));
}

void print_json(const Report &report) {
  nlohmann::ordered_json out;
  out["command"] = report.command;
  if (report.program) {
    const ElfImage &image = report.program->image;
    out["path"] = report.program->path;
    out["chain"] = report.program->chain;
    out["machine"] = image.bits == 0 ? "" : machine_name(image.machine);
    out["loader"] = image.interpreter;
  }
  out["library"] = report.library;
  out["config"] = {{"file", report.config}, {"error", report.config_error}};
  out["identity"] = {{"error", report.identity_error}};
  if (report.identity) {
    out["identity"]["id"] = report.identity->id;
    out["identity"]["not_before"] = utc_time(report.identity->not_before);
    out["identity"]["not_after"] = utc_time(report.identity->not_after);
  }
  if (!report.agent.empty()) out["identity"]["agent"] = report.agent;
  out["notes"] = nlohmann::ordered_json::array();
  for (const Caution &caution : report.cautions) {
    out["notes"].push_back(
        {{"severity", caution.severity == Severity::caution ? "caution" : "note"},
         {"about", caution.about},
         {"text", caution.text},
         {"objects", caution.objects}});
  }
  out["strict"] = effects_of_strict(report);
  out["protected"] = report.hindrance().by.empty();
  out["hindered_by"] = report.hindrance().by;
  out["verdict"] = verdict(report);
  fmt::print("{}\n", out.dump(2, ' ', true, nlohmann::json::error_handler_t::replace));
}

void doctor(const Options &options, const std::vector<std::string> &command) {
  if (command.empty()) {
    complain("doctor: no command given; inlay doctor [OPTIONS] -- COMMAND [ARG…]");
    throw Exit{kExitUsage};
  }
  Report report = make_report(options, command);
  if (options.json) {
    print_json(report);
  } else {
    print_human(report);
  }
  if (!report.hindrance().by.empty()) throw Exit{kExitFailed};
}

}  // namespace

void add_doctor_command(const Command &root) {
  const Command command = root.subcommand("doctor", kHelp);
  auto options = std::make_shared<Options>();
  command.option("--config", options->config);
  command.option("--config-owner", options->owners);
  command.flag("--json", options->json);
  command.callback([options] { doctor(*options, command_words()); });
}

}  // namespace inlay::tools
