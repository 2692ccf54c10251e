#include "tools/unit_file.h"

#include <algorithm>
#include <cctype>

namespace inlay::tools {
namespace {

constexpr std::string_view kSpace = " \t\r\f\v";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) + 1 - first);
}

bool is_comment(std::string_view line) { return line.starts_with('#') || line.starts_with(';'); }

}  // namespace

std::vector<UnitSetting> parse_unit_file(std::string_view text) {
  std::vector<UnitSetting> settings;
  std::string section;
  std::string line;
  bool continued = false;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view piece = trimmed(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    // Comments between continued lines are left out, and do not end them.
    if (is_comment(piece) || (piece.empty() && !continued)) continue;
    continued = piece.ends_with('\\');
    if (continued) piece.remove_suffix(1);
    line += piece;
    if (continued) {
      line += ' ';
      if (!text.empty()) continue;
    }
    const std::string_view whole = trimmed(line);
    const std::size_t equals = whole.find('=');
    if (whole.starts_with('[') && whole.ends_with(']')) {
      section = whole.substr(1, whole.size() - 2);
    } else if (equals != whole.npos) {
      settings.push_back({section, std::string(trimmed(whole.substr(0, equals))),
                          std::string(trimmed(whole.substr(equals + 1)))});
    }
    line.clear();
    continued = false;
  }
  return settings;
}

void UnitSettings::add(std::string_view text) {
  for (UnitSetting &setting : parse_unit_file(text)) settings_.push_back(std::move(setting));
}

std::vector<std::string> UnitSettings::list(std::string_view section, std::string_view key) const {
  std::vector<std::string> values;
  for (const UnitSetting &setting : settings_) {
    if (setting.section != section || setting.key != key) continue;
    if (setting.value.empty()) {
      values.clear();
    } else {
      values.push_back(setting.value);
    }
  }
  return values;
}

std::vector<std::string> UnitSettings::words(std::string_view section, std::string_view key) const {
  std::vector<std::string> out;
  for (const std::string &value : list(section, key)) {
    for (std::string &word : split_words(value)) out.push_back(std::move(word));
  }
  return out;
}

std::string UnitSettings::last(std::string_view section, std::string_view key) const {
  std::string value;
  for (const UnitSetting &setting : settings_) {
    if (setting.section == section && setting.key == key) value = setting.value;
  }
  return value;
}

bool UnitSettings::is_on(std::string_view section, std::string_view key) const {
  return is_yes(last(section, key));
}

bool is_yes(std::string_view value) {
  std::string lower(value);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower == "1" || lower == "yes" || lower == "y" || lower == "true" || lower == "t" ||
         lower == "on";
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  while (true) {
    const std::size_t first = text.find_first_not_of(" \t\r\n\f\v");
    if (first == text.npos) return words;
    text.remove_prefix(first);
    const std::size_t end = text.find_first_of(" \t\r\n\f\v");
    words.emplace_back(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end);
  }
}

}  // namespace inlay::tools
