#include "tools/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

namespace inlay::tools {
namespace {

void set_help(CLI::App &app, std::string_view help) {
  app.formatter_fn([text = std::string(help)](auto...) { return text; });
}

}  // namespace

Command Command::subcommand(const std::string &name, std::string_view help) const {
  CLI::App &added = *app_->add_subcommand(name);
  set_help(added, help);
  return Command(added);
}

void Command::require_subcommand() const { app_->require_subcommand(1); }

void Command::option(const std::string &name, std::string &value) const {
  app_->add_option(name, value);
}

void Command::option(const std::string &name, std::vector<std::string> &values) const {
  app_->add_option(name, values)->allow_extra_args(false);
}

void Command::option(const std::string &name, std::vector<uid_t> &values) const {
  app_->add_option(name, values)->allow_extra_args(false);
}

void Command::required_option(const std::string &name, std::string &value) const {
  app_->add_option(name, value)->required();
}

void Command::positive_number(const std::string &name, pid_t &value) const {
  app_->add_option(name, value)->check(CLI::PositiveNumber);
}

void Command::flag(const std::string &name, bool &value) const { app_->add_flag(name, value); }

void Command::callback(std::function<void()> work) const { app_->callback(std::move(work)); }

void Command::pass_on(const std::string &name,
                      std::function<void(std::vector<std::string>)> work) const {
  CLI::App *added = app_->add_subcommand(name);
  added->prefix_command();
  added->set_help_flag();
  added->callback([added, work = std::move(work)] { work(added->remaining()); });
}

CommandLine::CommandLine(std::string_view help, const std::string &version)
    : app_(std::make_unique<CLI::App>("", "inlay")) {
  set_help(*app_, help);
  app_->set_version_flag("--version", version);
}

CommandLine::~CommandLine() = default;

Command CommandLine::root() const { return Command(*app_); }

bool CommandLine::has_subcommand(const std::string &name) const {
  return !app_->get_subcommands([&](CLI::App *command) { return command->check_name(name); })
              .empty();
}

void CommandLine::run(std::vector<std::string> words) const {
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app_->parse(std::move(words));
  } catch (const CLI::Success &help) {
    app_->exit(help);  // prints
  } catch (const CLI::ParseError &error) {
    std::string message = error.what();
    std::replace(message.begin(), message.end(), '\n', ' ');
    throw UsageError{std::move(message)};
  }
}

}  // namespace inlay::tools
