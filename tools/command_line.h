// The options of `inlay` and its subcommands. CLI11 stands behind this, in command_line.cc alone:
// each file that includes its header takes seconds longer to compile.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace inlay::tools {

// Thrown to end the command with this code, after complain() has said why.
struct Exit {
  int code;
};

// A command line nobody can act on: one line that says what is wrong with it.
struct UsageError {
  std::string message;
};

// A subcommand whose words are somebody else's to understand.
struct PassedOn {
  CLI::App *command;
  std::function<void(std::vector<std::string>)> work;
};

// One subcommand while it is being described. The variables an option is given are written when the
// command line is parsed, before the callback, and left alone where the option is not there.
class Command {
 public:
  Command(CLI::App &app, std::vector<PassedOn> &passed_on) : app_(&app), passed_on_(&passed_on) {}

  // `help` is the whole text of --help.
  Command subcommand(const std::string &name, std::string_view help) const;
  void require_subcommand() const;

  // Names begin with "--" but for arguments without an option's name. A vector's option may be
  // repeated, with one value each time.
  void option(const std::string &name, std::string &value) const;
  void option(const std::string &name, std::vector<std::string> &values) const;
  void option(const std::string &name, std::vector<uid_t> &values) const;
  void required_option(const std::string &name, std::string &value) const;
  void positive_number(const std::string &name, pid_t &value) const;
  void flag(const std::string &name, bool &value) const;

  void callback(std::function<void()> work) const;
  // A subcommand whose words, --help and names of other commands included, are all for `work`.
  void pass_on(const std::string &name, std::function<void(std::vector<std::string>)> work) const;

 private:
  CLI::App *app_;
  std::vector<PassedOn> *passed_on_;
};

class CommandLine {
 public:
  CommandLine(std::string_view help, const std::string &version);
  ~CommandLine();

  Command root() const;
  bool has_subcommand(const std::string &name) const;

  // Parses the words after the program's name, and does what they say. Throws UsageError, and Exit
  // with what the callbacks throw; --help and --version print and return.
  void run(std::vector<std::string> words) const;

 private:
  std::unique_ptr<CLI::App> app_;
  std::unique_ptr<std::vector<PassedOn>> passed_on_;
};

}  // namespace inlay::tools
