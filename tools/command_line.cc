#include "tools/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <utility>

#include "tools/text.h"

namespace inlay::tools {
namespace {

void set_help(CLI::App &app, std::string_view help) {
  app.formatter_fn([text = std::string(help)](auto...) { return text; });
}

}  // namespace

Command Command::subcommand(const std::string &name, std::string_view help) const {
  CLI::App &added = *app_->add_subcommand(name);
  set_help(added, help);
  return Command(added, *passed_on_);
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
  const auto judge = [](const std::string &text) {
    pid_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool good = error == std::errc() && end == text.data() + text.size() && number > 0;
    return good ? std::string() : fmt::format("'{}' is no number of a process", printable(text));
  };
  app_->add_option(name, value)->check(CLI::Validator(judge, ""));
}

void Command::flag(const std::string &name, bool &value) const { app_->add_flag(name, value); }

void Command::callback(std::function<void()> work) const { app_->callback(std::move(work)); }

void Command::pass_on(const std::string &name,
                      std::function<void(std::vector<std::string>)> work) const {
  passed_on_->push_back({app_->add_subcommand(name), std::move(work)});
}

CommandLine::CommandLine(std::string_view help, const std::string &version)
    : app_(std::make_unique<CLI::App>("", "inlay")),
      passed_on_(std::make_unique<std::vector<PassedOn>>()) {
  set_help(*app_, help);
  app_->set_version_flag("--version", version);
}

CommandLine::~CommandLine() = default;

Command CommandLine::root() const { return Command(*app_, *passed_on_); }

bool CommandLine::has_subcommand(const std::string &name) const {
  return !app_->get_subcommands([&](CLI::App *command) { return command->check_name(name); })
              .empty();
}

void CommandLine::run(std::vector<std::string> words) const {
  // CLI11 would take words further on for commands: that of "inlay ca rotate status", say.
  const CLI::App *command = app_.get();
  for (std::size_t known = 0; known < words.size() && command != nullptr;) {
    const auto named = command->get_subcommands(
        [&](const CLI::App *each) { return each->get_name() == words[known]; });
    if (named.empty() && command->get_require_subcommand_min() > 0 && words[known][0] != '-') {
      throw UsageError{"there is no command '" + words[known] + "'"};
    }
    command = named.empty() ? nullptr : named.front();
    ++known;
    for (const PassedOn &passed : *passed_on_) {
      if (passed.command != command) continue;
      words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(known));
      return passed.work(std::move(words));
    }
  }
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
