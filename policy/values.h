// The values a configuration holds as text, each parsed into what policy works with. Errors are one
// sentence that says what is wrong and what to write.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "policy/policy.h"

namespace inlay::policy {

template <typename T>
using Value = tl::expected<T, std::string>;

Value<std::string> parse_trust_domain(std::string_view text);
Value<Mode> parse_mode(std::string_view text);
Value<BareFin> parse_bare_fin(std::string_view text);
// "5s", "500ms", "1m"; from 100 ms to 10 minutes. In milliseconds.
Value<std::uint32_t> parse_timeout(std::string_view text);
// "6000-6999".
Value<PortRange> parse_port_range(std::string_view text);
// A CIDR or an address a connection can have: not 0.0.0.0 or ::, no zone.
Value<Network> parse_network(std::string_view text);
// The name of a rule: 1 to 100 bytes, no control characters.
Value<std::string> parse_rule_name(std::string_view text);
// A pattern for module, frame or executable (policy.h, Caller).
Value<std::string> parse_caller_pattern(std::string_view key, std::string_view text);
// "refuse" (false) or "accept" (true).
Value<bool> parse_stale_crl(std::string_view text);
// "cut" (false) or "keep" (true).
Value<bool> parse_distrusted(std::string_view text);
// Absolute, `base` put in front of a relative one.
Value<std::string> parse_path(std::string_view text, std::string_view base);

// An entry of `to`: a network, or else the normal form of a host name.
struct Destination {
  std::optional<Network> network;
  std::string name;
};
Value<Destination> parse_destination(std::string_view text);

}  // namespace inlay::policy
