// Unit files of systemd as text (systemd.syntax(7)): what an administrator wrote, in the order in
// which systemd takes it in.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace inlay::tools {

struct UnitSetting {
  std::string section;  // "Service"
  std::string key;
  std::string value;  // continued lines as one; "" takes back what lists had before
};
std::vector<UnitSetting> parse_unit_file(std::string_view text);

// A unit's own file and its drop-ins, put together.
class UnitSettings {
 public:
  // In systemd's order: what is added later counts more.
  void add(std::string_view text);

  // All values of a list; an empty one takes back those before it.
  std::vector<std::string> list(std::string_view section, std::string_view key) const;
  // The words of all those values.
  std::vector<std::string> words(std::string_view section, std::string_view key) const;
  std::string last(std::string_view section, std::string_view key) const;  // "" = not set
  bool is_on(std::string_view section, std::string_view key) const;        // a boolean, set to yes
  const std::vector<UnitSetting> &all() const { return settings_; }

 private:
  std::vector<UnitSetting> settings_;
};

// "1", "yes", "true" and "on", in any case.
bool is_yes(std::string_view value);

std::vector<std::string> split_words(std::string_view text);  // at white space; no quotes

}  // namespace inlay::tools
