#include "identity/ca/selectors.h"

#include <fmt/format.h>

#include <algorithm>

#include "policy/glob.h"

namespace inlay::identity::ca {
namespace {

constexpr std::size_t kMaxNameLength = 256;  // of a user or group, more than useradd(8) takes

bool one_line(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; });
}

}  // namespace

tl::expected<std::string, std::string> parse_selector(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view key = text.substr(0, equals);
  const std::string_view value = equals == text.npos ? "" : text.substr(equals + 1);
  const auto wrong = [&](std::string_view what) {
    return tl::unexpected(fmt::format("--selector {}: {}", text.substr(0, 100), what));
  };
  if (!one_line(text)) return tl::unexpected(std::string("a selector is one line of text"));
  if (equals == text.npos || value.empty()) return wrong("write KEY=VALUE, as user=redis");
  if (key == "user" || key == "group" || key == "groups" || key == "uid" || key == "gid") {
    if (value.size() > kMaxNameLength || value.find_first_of(" ,:/") != value.npos) {
      return wrong("the value is one name or number; write a selector for each");
    }
    const bool numeric = value.find_first_not_of("0123456789") == value.npos;
    if ((key == "uid" || key == "gid") && !numeric) return wrong("the value must be a number");
    return std::string(text);
  }
  if (key == "executable") {
    if (!value.starts_with('/')) return wrong("the value must be the full path of the program");
    if (value.find('*') != value.npos) return wrong("it is one path, no pattern");
    return std::string(text);
  }
  if (key == "sha256") {
    std::string digest(value);
    for (char &c : digest) {
      if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    }
    if (digest.size() != 64 || digest.find_first_not_of("0123456789abcdef") != digest.npos) {
      return wrong("the value must be 64 hexadecimal digits, as sha256sum prints them");
    }
    return "sha256=" + digest;
  }
  if (key == "unit" || key == "cgroup") {
    if (value.size() > policy::kMaxGlobLength || value.find("***") != value.npos) {
      return wrong("the value must be a name or a pattern with * or **");
    }
    return std::string(text);
  }
  return wrong("known keys are user, group, groups, uid, gid, executable, sha256, unit and cgroup");
}

}  // namespace inlay::identity::ca
