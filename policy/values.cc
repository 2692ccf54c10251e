#include "policy/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <climits>

#include "policy/host_name.h"

namespace inlay::policy {
namespace {

constexpr std::size_t kMaxRuleName = 100;
constexpr std::size_t kMaxCallerPattern = 512;
constexpr std::uint32_t kMinTimeoutMs = 100;
constexpr std::uint32_t kMaxTimeoutMs = 10 * 60 * 1000;

tl::unexpected<std::string> wrong(std::string message) {
  return tl::unexpected(std::move(message));
}

bool has_control(std::string_view text) noexcept {
  return std::any_of(text.begin(), text.end(), [](char c) {
    auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
  });
}

bool parse_number(std::string_view text, std::uint32_t *out) noexcept {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

Value<std::string> parse_trust_domain(std::string_view text) {
  if (identity::valid_trust_domain(text)) return std::string(text);
  return wrong(fmt::format(
      "\"{}\" is no trust domain: write it as example.org, lower case, without spiffe://", text));
}

Value<Mode> parse_mode(std::string_view text) {
  if (text == "strict") return Mode::strict;
  if (text == "plaintext") return Mode::plaintext;
  if (text == "deny") return Mode::deny;
  if (text == "permissive") {
    return wrong("mode \"permissive\" is not in this version: write strict, plaintext or deny");
  }
  return wrong(fmt::format("unknown mode \"{}\": write strict, plaintext or deny", text));
}

Value<BareFin> parse_bare_fin(std::string_view text) {
  if (text == "error") return BareFin::error;
  if (text == "eof") return BareFin::eof;
  return wrong(fmt::format("unknown bare_fin \"{}\": write error or eof", text));
}

Value<std::uint32_t> parse_timeout(std::string_view text) {
  std::string_view digits = text;
  std::uint32_t unit = 0;
  if (digits.ends_with("ms")) {
    unit = 1;
    digits.remove_suffix(2);
  } else if (digits.ends_with('s')) {
    unit = 1000;
    digits.remove_suffix(1);
  } else if (digits.ends_with('m')) {
    unit = 60 * 1000;
    digits.remove_suffix(1);
  }
  std::uint32_t number = 0;
  if (unit == 0 || !parse_number(digits, &number)) {
    return wrong(
        fmt::format("\"{}\" is no duration: write a whole number and ms, s or m, as \"5s\"", text));
  }
  if (number > kMaxTimeoutMs / unit || number * unit < kMinTimeoutMs) {
    return wrong(fmt::format("\"{}\" is out of range: write 100ms to 10m", text));
  }
  return number * unit;
}

Value<PortRange> parse_port_range(std::string_view text) {
  std::size_t dash = text.find('-');
  std::uint32_t first = 0, last = 0;
  if (dash == std::string_view::npos || !parse_number(text.substr(0, dash), &first) ||
      !parse_number(text.substr(dash + 1), &last)) {
    return wrong(fmt::format(
        "\"{}\" is no port: write a number without quotes, a range \"6000-6999\", or \"*\"", text));
  }
  if (first == 0 || last > 65535 || first > last) {
    return wrong(fmt::format(
        "\"{}\" is no range of ports: they go from 1 to 65535, the lower one first", text));
  }
  return PortRange{static_cast<std::uint16_t>(first), static_cast<std::uint16_t>(last)};
}

Value<Network> parse_network(std::string_view text) {
  if (text.find('%') != std::string_view::npos) {
    return wrong(fmt::format(
        "\"{}\" names an interface: leave out % and what follows, rules hold on every interface",
        text));
  }
  auto network = Network::parse(text);
  if (!network) {
    std::size_t slash = text.find('/');
    if (slash != std::string_view::npos && Address::parse(text.substr(0, slash))) {
      return wrong(fmt::format(
          "\"{}\" is no network: the prefix is too long, or bits after it are not zero", text));
    }
    return wrong(
        fmt::format("\"{}\" is no address and no network: write as 10.0.0.1, 10.0.0.0/8, "
                    "::1 or fd00::/8",
                    text));
  }
  if (network->prefix == 128 && network->address.is_unspecified()) {
    return wrong(fmt::format("no connection has the address \"{}\": write \"{}\" for every one",
                             text, network->address.is_v4() ? "0.0.0.0/0" : "::/0"));
  }
  return *network;
}

Value<std::string> parse_rule_name(std::string_view text) {
  if (text.empty() || text.size() > kMaxRuleName || has_control(text)) {
    return wrong(fmt::format(
        "a rule's name has 1 to {} bytes and no control characters: shorten or clean it",
        kMaxRuleName));
  }
  return std::string(text);
}

Value<std::string> parse_caller_pattern(std::string_view key, std::string_view text) {
  if (text.empty() || text.size() > kMaxCallerPattern || has_control(text)) {
    return wrong(fmt::format("{} has 1 to {} bytes and no control characters: leave it out for any",
                             key, kMaxCallerPattern));
  }
  if (key == "frame") {
    std::size_t split = text.rfind('!');
    if (split == std::string_view::npos || split == 0 || split + 1 == text.size()) {
      return wrong(
          fmt::format("\"{}\" is no frame: write OBJECT!FUNCTION, as "
                      "\"libhiredis.so*!redisConnect*\"",
                      text));
    }
  }
  return std::string(text);
}

Value<bool> parse_stale_crl(std::string_view text) {
  if (text != "refuse" && text != "accept") return wrong("stale_crl is \"refuse\" or \"accept\"");
  return text == "accept";
}

Value<bool> parse_distrusted(std::string_view text) {
  if (text != "cut" && text != "keep") return wrong("distrusted is \"cut\" or \"keep\"");
  return text == "keep";
}

Value<std::string> parse_path(std::string_view text, std::string_view base) {
  if (text.empty() || has_control(text)) {
    return wrong("a path must not be empty or have control characters");
  }
  std::string out(text);
  if (text.front() != '/') out = fmt::format("{}{}{}", base, base.ends_with('/') ? "" : "/", text);
  if (out.size() >= PATH_MAX) return wrong("the path is too long");
  return out;
}

Value<Destination> parse_destination(std::string_view text) {
  if (auto name = normal_host_name(text)) return Destination{.network = {}, .name = *name};
  // "10.0.0.0/33" and "127.1" are addresses gone wrong, "*.internal" is a name gone wrong.
  bool address_like = text.find_first_of(":/%") != std::string_view::npos ||
                      text.find_first_not_of("0123456789abcdefABCDEFxX.") == std::string_view::npos;
  if (address_like) {
    auto network = parse_network(text);
    if (!network) return wrong(network.error());
    return Destination{.network = *network, .name = {}};
  }
  return wrong(
      fmt::format("\"{}\" is no host name: write it out, with letters, digits, - and .; "
                  "there are no wildcards",
                  text));
}

}  // namespace inlay::policy
