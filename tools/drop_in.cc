#include "tools/drop_in.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>

namespace inlay::tools {
namespace {

constexpr std::string_view kSeal = "# SHA-256 of what follows: ";
// A comment for people, and for who looks whether the unit still says so.
constexpr std::string_view kInstead = "# Instead of: ";

std::string sha256(std::string_view text) {
  std::array<unsigned char, 32> digest{};
  EVP_Digest(text.data(), text.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  std::string out;
  for (const unsigned char byte : digest) out += fmt::format("{:02x}", byte);
  return out;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  return lines;
}

}  // namespace

std::string drop_in_text(const DropIn &drop_in) {
  std::string body;
  if (!drop_in.after.empty()) {
    body += fmt::format("[Unit]\nWants={0}\nAfter={0}\n\n", drop_in.after);
  }
  body += "[Service]\n";
  for (const std::string &line : drop_in.instead_of) body += fmt::format("{}{}\n", kInstead, line);
  body += "ExecStart=\n";
  for (const std::string &line : drop_in.exec_starts) body += "ExecStart=" + line + "\n";
  for (const std::string &line : drop_in.additions) body += line + "\n";
  const std::string_view user = drop_in.of_user ? "--user " : "";
  return fmt::format(
      "# Made by `inlay enable {0}{1}`, which makes it anew when the unit's own ExecStart= "
      "changes;\n"
      "# `inlay disable {0}{1}` removes it.\n{2}{3}\n{4}",
      user, drop_in.unit, kSeal, sha256(body), body);
}

std::vector<std::string> commands_replaced(std::string_view text) {
  std::vector<std::string> commands;
  for (const std::string_view line : lines_of(text)) {
    if (line.starts_with(kInstead)) commands.emplace_back(line.substr(kInstead.size()));
  }
  return commands;
}

bool is_as_written(std::string_view text) {
  const std::size_t at = text.find(kSeal);
  if (at == text.npos || (at != 0 && text[at - 1] != '\n')) return false;
  const std::string_view rest = text.substr(at + kSeal.size());
  const std::size_t end = rest.find('\n');
  return end != rest.npos && rest.substr(0, end) == sha256(rest.substr(end + 1));
}

std::string line_changes(std::string_view before, std::string_view after) {
  const std::vector<std::string_view> old = lines_of(before), fresh = lines_of(after);
  // common[i][j]: how many lines old[i…] and fresh[j…] can share.
  std::vector<std::vector<std::size_t>> common(old.size() + 1,
                                               std::vector<std::size_t>(fresh.size() + 1, 0));
  for (std::size_t i = old.size(); i-- > 0;) {
    for (std::size_t j = fresh.size(); j-- > 0;) {
      common[i][j] = old[i] == fresh[j] ? common[i + 1][j + 1] + 1
                                        : std::max(common[i + 1][j], common[i][j + 1]);
    }
  }
  std::string out;
  std::size_t i = 0, j = 0;
  const auto say = [&](const char *mark, std::string_view line) {
    out.append(mark).append(line) += '\n';
  };
  while (i < old.size() || j < fresh.size()) {
    if (i < old.size() && j < fresh.size() && old[i] == fresh[j]) {
      say("  ", old[i]);
      ++i, ++j;
    } else if (i < old.size() && (j == fresh.size() || common[i + 1][j] >= common[i][j + 1])) {
      say("- ", old[i++]);
    } else {
      say("+ ", fresh[j++]);
    }
  }
  return out;
}

}  // namespace inlay::tools
