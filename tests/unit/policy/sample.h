// Configurations for tests.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include "policy/load.h"

namespace inlay::policy::sample {

inline const std::string kHead = R"(trust_domain = "example.org"
[identity]
svid = "svid.pem"
key = "key.pem"
bundle = "bundle.pem"
[identity.bundles]
"partner.test" = "partner.pem"
)";

inline std::string with_defaults(std::string_view inbound, std::string_view outbound) {
  return kHead + "[defaults]\ninbound = \"" + std::string(inbound) + "\"\noutbound = \"" +
         std::string(outbound) + "\"\n";
}

// The policy of a configuration that must be good.
inline Policy good(std::string_view toml) {
  auto policy = parse(toml, "/etc/inlay", "inlay.toml");
  INFO(toml);
  REQUIRE_MESSAGE(policy.has_value(), policy.error().text());
  return *policy;
}

inline identity::SpiffeId id(std::string_view uri) {
  auto parsed = identity::SpiffeId::parse(uri);
  INFO(uri);
  REQUIRE(parsed.has_value());
  return *parsed;
}

inline Endpoint at(std::string_view address, std::uint16_t port) {
  auto parsed = Address::parse(address);
  INFO(address);
  REQUIRE(parsed.has_value());
  return {*parsed, port};
}

}  // namespace inlay::policy::sample
