#include "identity/agent/config_values.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <vector>

#include "identity/agent/metrics_server.h"
#include "policy/glob.h"

namespace inlay::identity::agent {
namespace {

constexpr std::time_t kShortestLifetime = 60, kLongestLifetime = 7 * 86400;  // seconds

// The C library's tables of users and groups; the buffer grows until an entry fits.
template <typename Record, typename Lookup>
bool in_table(const std::string &name, Lookup lookup, Record *out) {
  std::vector<char> buffer(16 * 1024);
  Record *found = nullptr;
  int error;
  while ((error = lookup(name.c_str(), out, buffer.data(), buffer.size(), &found)) == ERANGE &&
         buffer.size() < (1u << 24)) {
    buffer.resize(buffer.size() * 2);
  }
  return error == 0 && found != nullptr;
}

}  // namespace

using policy::Value;

Value<std::time_t> parse_lifetime(std::string_view text) {
  std::time_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  std::time_t factor = unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  if (unit == "d") factor = 86400;
  if (error != std::errc() || factor == 0 || value < 1 || value > kLongestLifetime / factor ||
      value * factor < kShortestLifetime) {
    return tl::unexpected(
        fmt::format("\"{}\" is no lifetime of an SVID: write a whole number and s, m, h or d, from "
                    "1m to 7d",
                    text));
  }
  return value * factor;
}

Value<std::string> parse_sha256(std::string_view text) {
  std::string out(text);
  for (char &c : out) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
  }
  if (out.size() != 64 || out.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return tl::unexpected<std::string>(
        "sha256 must be 64 hexadecimal digits, as sha256sum prints them");
  }
  return out;
}

Value<std::string> parse_executable(std::string_view text) {
  if (!text.starts_with('/')) {
    return tl::unexpected<std::string>("executable must be the full path of the program");
  }
  if (text.find('*') != std::string_view::npos) {
    return tl::unexpected<std::string>("executable is one path, no pattern: write an entry each");
  }
  return std::string(text);
}

Value<std::string> parse_listen(std::string_view text) {
  std::string complaint = listen_address_complaint(std::string(text));
  if (!complaint.empty()) return tl::unexpected(std::move(complaint));
  return std::string(text);
}

Value<std::string> parse_glob(std::string_view text) {
  if (text.empty() || text.size() > policy::kMaxGlobLength ||
      text.find("***") != std::string_view::npos) {
    return tl::unexpected<std::string>("it must be a name or a pattern with * or **");
  }
  return std::string(text);
}

Value<uid_t> user_named(const std::string &name) {
  struct passwd record {};
  if (in_table(name, getpwnam_r, &record)) return record.pw_uid;
  return tl::unexpected(fmt::format("there is no user \"{}\" here: create it or correct it", name));
}

Value<gid_t> group_named(const std::string &name) {
  struct group record {};
  if (in_table(name, getgrnam_r, &record)) return record.gr_gid;
  return tl::unexpected(
      fmt::format("there is no group \"{}\" here: create it or correct it", name));
}

Value<std::string> parse_est_url(std::string_view text) {
  constexpr std::string_view kScheme = "https://";
  const std::string_view rest = text.substr(std::min(text.size(), kScheme.size()));
  const std::string_view host = rest.substr(0, rest.find('/'));
  const bool printable = std::ranges::all_of(text, [](char c) { return c > ' ' && c < '\x7f'; });
  if (text.starts_with(kScheme) && !host.empty() && host.find('@') == host.npos && printable &&
      text.find_first_of("?#") == text.npos) {
    return std::string(text.ends_with('/') ? text.substr(0, text.size() - 1) : text);
  }
  return tl::unexpected(
      fmt::format("\"{}\" is no EST server: write \"https://HOST/.well-known/est\"", text));
}

}  // namespace inlay::identity::agent
