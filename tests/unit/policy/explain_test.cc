#include "policy/explain.h"

#include <doctest/doctest.h>

#include <string>

#include "sample.h"

using namespace inlay::policy;
using namespace inlay::policy::sample;

TEST_CASE("an explanation says the decision, the rule and the reason") {
  Policy policy = good(with_defaults("plaintext", "strict") + R"(
[[inbound]]
name = "redis for the web tier"
port = 6379
mode = "strict"
allow = ["spiffe://example.org/web", "spiffe://example.org/old"]
deny = ["spiffe://example.org/old"]
[[inbound]]
name = "metrics"
port = 9090
mode = "plaintext"
[[inbound]]
name = "nobody"
port = 9091
mode = "strict"
allow = []
)");
  auto inbound = [&](std::uint16_t port, std::string_view peer) {
    std::optional<inlay::identity::SpiffeId> who;
    if (!peer.empty()) who = id(peer);
    return explain(policy, InboundQuery{.local = at("127.0.0.1", port)}, who);
  };
  Explanation web = inbound(6379, "spiffe://example.org/web");
  CHECK(web.allowed);
  CHECK(web.text() ==
        "connection: inbound to 127.0.0.1:6379\n"
        "decision: strict\n"
        "rule: \"redis for the web tier\" (inbound rule 1)\n"
        "peer: allowed\n"
        "reason: allowed - the peer's identity is allowed by the rule\n");
  Explanation old = inbound(6379, "spiffe://example.org/old");
  CHECK_FALSE(old.allowed);
  CHECK(old.reason == Reason::peer_denied);
  CHECK(old.peer == "refused");
  Explanation anyone = inbound(6379, "");
  CHECK(anyone.allowed);
  CHECK(anyone.reason == Reason::none);
  CHECK(anyone.peer ==
        "must be one of spiffe://example.org/web, spiffe://example.org/old and none of "
        "spiffe://example.org/old");
  CHECK(inbound(9091, "").peer == "none is allowed");
  CHECK_FALSE(inbound(9091, "").allowed);
  Explanation metrics = inbound(9090, "spiffe://example.org/web");
  CHECK(metrics.allowed);
  CHECK(metrics.peer == "not asked");
  CHECK(metrics.reason == Reason::plaintext_rule);
  CHECK(inbound(80, "").rule == "[defaults] inbound");
  policy.strict = true;
  CHECK_FALSE(inbound(80, "").allowed);

  OutboundQuery query{.remote = at("::1", 80)};
  Explanation own = explain(policy, query, std::nullopt);
  CHECK(own.connection == "outbound to [::1]:80");
  CHECK(own.rule == "[defaults] outbound");
  CHECK(own.peer == "must be of the trust domain example.org");
  CHECK_FALSE(explain(policy, query, id("spiffe://partner.test/x")).allowed);
}
