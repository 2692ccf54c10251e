#include "identity/agent/granted_entry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <sstream>

#include "identity/certificate.h"
#include "policy/load.h"
#include "policy/snapshot.h"

namespace inlay::identity::agent {
namespace {

bool is_number(std::string_view text) {
  return !text.empty() && text.size() <= 10 &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// A TOML basic string: JSON's escapes are TOML's (TOML 1.0, "String").
std::string quoted(const std::string &text) {
  using Json = nlohmann::json;
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Users and groups: numbers, or names.
std::string id_of(const std::string &text) { return is_number(text) ? text : quoted(text); }
std::string ids_of(const std::string &text) {
  std::string out;
  std::istringstream names{text};
  for (std::string name; std::getline(names, name, ',');) out += id_of(name) + ", ";
  return "[" + out + "]";
}

// As the text of a configuration with one [[entry]], so that one reader judges both.
tl::expected<std::string, std::string> text_of(const GrantedEntry &granted,
                                               const std::string &trust_domain) {
  std::string text = fmt::format(
      "trust_domain = {}\nsource = {{ authority = \"/\" }}\n[[entry]]\nid = {}\n"
      "workload_api = {}\nrefuse_traced = {}\n",
      quoted(trust_domain), quoted(granted.spiffe_id), granted.workload_api, granted.refuse_traced);
  if (!granted.hint.empty()) text += fmt::format("hint = {}\n", quoted(granted.hint));
  for (const std::string &selector : granted.selectors) {
    const std::size_t equals = selector.find('=');
    const std::string key = selector.substr(0, equals);
    constexpr std::array kIds = {"user", "uid", "group", "gid"};
    constexpr std::array kTexts = {"executable", "sha256", "unit", "cgroup"};
    const bool is_id = std::ranges::count(kIds, key) != 0;
    if (equals == std::string::npos ||
        (!is_id && key != "groups" && std::ranges::count(kTexts, key) == 0)) {
      return tl::unexpected(fmt::format("the selector \"{}\" is none", printable(selector)));
    }
    const std::string value = selector.substr(equals + 1);
    text += fmt::format("{} = {}\n", key,
                        is_id             ? id_of(value)
                        : key == "groups" ? ids_of(value)
                                          : quoted(value));
  }
  return text;
}

std::string name_of(const GrantedEntry &granted) {
  return fmt::format("entry {} of the authority ({})", printable(granted.id),
                     printable(granted.spiffe_id));
}

}  // namespace

tl::expected<Entry, std::string> read_granted(const GrantedEntry &granted,
                                              const std::string &trust_domain) {
  const auto text = text_of(granted, trust_domain);
  if (!text) return tl::unexpected(text.error());
  auto config = parse_config(*text, "/", "", "/");
  if (!config) return tl::unexpected(config.error().message);
  Entry entry = config->entries.at(0);
  resolve_executable(entry);
  if (granted.policy.empty()) return entry;
  auto policy = policy::parse(granted.policy, "/", "its policy");
  if (!policy) return tl::unexpected(policy.error().text());
  if (policy->trust_domain != trust_domain) {
    return tl::unexpected(
        fmt::format("the trust domain of its policy is \"{}\", this machine's "
                    "is \"{}\"",
                    policy->trust_domain, trust_domain));
  }
  entry.policy = std::make_shared<const std::string>(policy::serialize(*policy));
  return entry;
}

Config with_granted(Config config, std::span<const GrantedEntry> granted,
                    std::vector<std::string> &left_out) {
  for (const GrantedEntry &one : granted) {
    auto entry = read_granted(one, config.trust_domain);
    if (!entry) {
      left_out.push_back(fmt::format("{} is not in force here: {}", name_of(one), entry.error()));
      continue;
    }
    entry->number = static_cast<std::uint32_t>(config.entries.size() + 1);
    const auto other = std::ranges::find_if(config.entries, [&](const Entry &held) {
      return !held.gives_the_same(*entry) && overlap(held.selectors, entry->selectors);
    });
    if (other != config.entries.end()) {
      left_out.push_back(
          fmt::format("{} is not in force here: a process may match both it and {}, "
                      "which gives something else; narrow the selectors of one",
                      name_of(one), other->name()));
      continue;
    }
    config.entries.push_back(std::move(*entry));
  }
  return config;
}

}  // namespace inlay::identity::agent
