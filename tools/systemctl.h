// systemd as systemctl(1) knows it: the system's, or the user's own.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::tools {

struct Unit {
  std::string name;                   // its own, not an alias
  std::string load;                   // "loaded", "not-found", "masked", …
  std::string file;                   // "" = made by systemd itself
  std::vector<std::string> drop_ins;  // in their order
  std::string active;                 // "active", "inactive", "failed", "activating", …
  std::string result;                 // "success", "exit-code", …
  long main_pid = 0;
  long restarts = 0;
  bool is_running() const {
    return active == "active" || active == "activating" || active == "reloading";
  }
};

class Systemctl {
 public:
  // `of_user`: this user's instead of the system's.
  explicit Systemctl(bool of_user) : of_user_(of_user) {}

  // Each error is one line.
  tl::expected<Unit, std::string> look_up(const std::string &name) const;
  // The paths that ExecStart= of it would execute now.
  tl::expected<std::vector<std::string>, std::string> executables(const std::string &name) const;
  tl::expected<void, std::string> reload_units() const;
  tl::expected<void, std::string> restart(const std::string &name) const;
  // What it said last, for people.
  std::string last_words(const std::string &name) const;
  // The folder for drop-ins of the administrator, or of this user.
  std::string drop_in_folder(const std::string &name) const;

 private:
  tl::expected<std::string, std::string> systemctl(std::vector<std::string> words) const;

  bool of_user_;
};

// The units, of the system or of this user, that have a drop-in of this name.
std::vector<std::string> units_with_drop_in(bool of_user, std::string_view name);

// Runs a command: its exit code (127: it is not there) and what it wrote.
struct Output {
  int code = 127;
  std::string out;
  std::string errors;
};
Output output_of(const std::vector<std::string> &words, void (*before)(const void *) = nullptr,
                 const void *argument = nullptr);

}  // namespace inlay::tools
