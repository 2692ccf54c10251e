#include <doctest/doctest.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "policy/policy.h"
#include "sample.h"

using namespace inlay::policy;
using namespace inlay::policy::sample;

namespace {

struct Outbound {
  std::vector<std::string> names{};
  std::string_view module{};
  std::string_view executable{};
  std::vector<std::string> frames{};
  bool frames_known = false;
  std::string_view bound{};
};

Decision outbound(const Policy &policy, std::string_view address, std::uint16_t port,
                  const Outbound &caller = {}) {
  OutboundQuery query{.remote = at(address, port),
                      .names = caller.names,
                      .module = caller.module,
                      .executable = caller.executable,
                      .frames = caller.frames,
                      .frames_known = caller.frames_known};
  if (!caller.bound.empty()) query.bound = at(caller.bound, 0).address;
  return decide(policy, query);
}

Decision inbound(const Policy &policy, std::string_view address, std::uint16_t port) {
  return decide(policy, InboundQuery{.local = at(address, port)});
}

// "strict 0", "deny denied-by-default"
std::string shown(const Decision &decision) {
  std::string out(name(decision.mode));
  if (decision.reason != Reason::none) out += " " + std::string(name(decision.reason));
  if (decision.rule != kNoRule) out += " " + std::to_string(decision.rule);
  return out;
}

Policy rules(std::string_view text, std::string_view outbound_default = "plaintext") {
  return good(with_defaults("plaintext", outbound_default) + std::string(text));
}

}  // namespace

TEST_CASE("T48 without rules the default decides, and a default not written is deny") {
  Policy none;
  CHECK(shown(inbound(none, "127.0.0.1", 80)) == "deny denied-by-default");
  CHECK(shown(outbound(none, "127.0.0.1", 80)) == "deny denied-by-default");
  Policy deny = good(with_defaults("deny", "deny"));
  CHECK(shown(inbound(deny, "127.0.0.1", 80)) == "deny denied-by-default");
  Policy plain = good(with_defaults("plaintext", "plaintext"));
  CHECK(shown(inbound(plain, "127.0.0.1", 80)) == "plaintext plaintext-default");
  CHECK(shown(outbound(plain, "127.0.0.1", 80)) == "plaintext plaintext-default");
  plain.strict = true;
  CHECK(shown(inbound(plain, "127.0.0.1", 80)) == "deny denied-by-default");
  CHECK(shown(outbound(plain, "127.0.0.1", 80)) == "deny denied-by-default");
}

TEST_CASE("--strict leaves plaintext rules and strict defaults alone") {
  Policy policy = good(with_defaults("strict", "strict") + R"(
[[outbound]]
name = "metrics"
to = "10.0.0.1"
port = 9090
mode = "plaintext"
)");
  policy.strict = true;
  CHECK(shown(outbound(policy, "10.0.0.1", 9090)) == "plaintext plaintext-rule 0");
  CHECK(shown(outbound(policy, "10.0.0.2", 9090)) == "strict");
}

TEST_CASE("T49 a strict rule with an empty list lets nobody in") {
  Policy policy = rules(R"(
[[inbound]]
name = "nobody"
port = 80
mode = "strict"
allow = []
[[outbound]]
name = "nowhere"
port = 80
mode = "strict"
expect = []
)");
  CHECK(shown(inbound(policy, "10.0.0.1", 80)) == "strict 0");
  CHECK(shown(outbound(policy, "10.0.0.1", 80)) == "strict 0");
  auto peer = id("spiffe://example.org/web");
  CHECK(judge_inbound_peer(policy, 0, peer) == Reason::peer_not_allowed);
  CHECK(judge_outbound_peer(policy, 0, peer) == Reason::peer_not_allowed);
}

TEST_CASE("T50 T25 T26 T27 who a strict rule lets in") {
  Policy policy = rules(R"(
[[inbound]]
name = "web"
port = 80
mode = "strict"
allow = ["spiffe://example.org/ns/web/**", "spiffe://example.org/ns/a", "spiffe://example.org/v1.0/*",
         "spiffe://partner.test/gate"]
deny = ["spiffe://example.org/ns/web/sa/legacy", "spiffe://example.org/**/untrusted"]
)");
  struct Case {
    const char *peer;
    Reason reason;
  };
  const Case cases[] = {
      {"spiffe://example.org/ns/web/sa/front", Reason::allowed},
      {"spiffe://example.org/ns/web", Reason::peer_not_allowed},
      {"spiffe://example.org/ns/website/x", Reason::peer_not_allowed},  // T25
      {"spiffe://example.org/ns/a", Reason::allowed},
      {"spiffe://example.org/ns/ab", Reason::peer_not_allowed},   // T25
      {"spiffe://example.org/ns/a/b", Reason::peer_not_allowed},  // T25
      {"spiffe://example.org/v1.0/x", Reason::allowed},
      {"spiffe://example.org/v1x0/x", Reason::peer_not_allowed},    // T26
      {"spiffe://example.org/v1.0/x/y", Reason::peer_not_allowed},  // T27
      {"spiffe://exampleXorg/ns/a", Reason::peer_not_allowed},
      {"spiffe://partner.test/gate", Reason::allowed},
      {"spiffe://partner.test/ns/a", Reason::peer_not_allowed},
      {"spiffe://example.org/ns/web/sa/legacy", Reason::peer_denied},  // T50
      {"spiffe://example.org/ns/web/untrusted", Reason::peer_denied},
      {"spiffe://example.org/other/untrusted", Reason::peer_denied},
  };
  for (const Case &c : cases) {
    CAPTURE(c.peer);
    if (auto peer = inlay::identity::SpiffeId::parse(c.peer)) {
      CHECK(name(judge_inbound_peer(policy, 0, *peer)) == name(c.reason));
    } else {
      CHECK(c.reason == Reason::peer_not_allowed);
    }
  }
}

TEST_CASE("a strict default lets in the own trust domain, and only while it is strict") {
  Policy policy = good(with_defaults("strict", "strict"));
  auto own = id("spiffe://example.org/any/workload");
  auto other = id("spiffe://partner.test/any");
  CHECK(judge_inbound_peer(policy, kNoRule, own) == Reason::allowed);
  CHECK(judge_outbound_peer(policy, kNoRule, own) == Reason::allowed);
  CHECK(judge_inbound_peer(policy, kNoRule, other) == Reason::peer_not_allowed);
  CHECK(judge_outbound_peer(policy, kNoRule, other) == Reason::peer_not_allowed);
  policy.defaults.inbound = Mode::plaintext;
  policy.defaults.outbound = Mode::deny;
  CHECK(judge_inbound_peer(policy, kNoRule, own) == Reason::denied_by_default);
  CHECK(judge_outbound_peer(policy, kNoRule, own) == Reason::denied_by_default);
}

TEST_CASE("a rule that is not there, or denies, lets nobody in") {
  Policy policy = rules(R"(
[[inbound]]
name = "no"
port = 1
mode = "deny"
[[outbound]]
name = "no"
port = 1
mode = "deny"
)");
  auto peer = id("spiffe://example.org/a");
  CHECK(judge_inbound_peer(policy, 0, peer) == Reason::denied_by_rule);
  CHECK(judge_outbound_peer(policy, 0, peer) == Reason::denied_by_rule);
  CHECK(judge_inbound_peer(policy, 7, peer) == Reason::internal_error);
  CHECK(judge_outbound_peer(policy, 7, peer) == Reason::internal_error);
}

TEST_CASE("inbound: deny rules first, then the first rule that matches port and address") {
  Policy policy = rules(R"(
[[inbound]]
name = "loopback in the clear"
port = [80, "8000-8009"]
address = ["127.0.0.0/8", "::1"]
mode = "plaintext"
[[inbound]]
name = "web"
port = [80, "8000-8100"]
mode = "strict"
bare_fin = "eof"
allow = "spiffe://example.org/**"
[[inbound]]
name = "never"
port = "8005-8006"
mode = "deny"
)");
  struct Case {
    const char *address;
    std::uint16_t port;
    const char *decision;
  };
  const Case cases[] = {
      {"127.0.0.1", 80, "plaintext plaintext-rule 0"},
      {"::1", 80, "plaintext plaintext-rule 0"},
      {"::ffff:127.0.0.1", 80, "plaintext plaintext-rule 0"},  // T56
      {"::127.0.0.1", 80, "strict 1"},                         // T56: not IPv4-mapped
      {"10.0.0.1", 80, "strict 1"},
      {"127.0.0.1", 8000, "plaintext plaintext-rule 0"},
      {"127.0.0.1", 8009, "plaintext plaintext-rule 0"},
      {"127.0.0.1", 8010, "strict 1"},
      {"10.0.0.1", 8100, "strict 1"},
      {"127.0.0.1", 8005, "deny denied-by-rule 2"},
      {"10.0.0.1", 8006, "deny denied-by-rule 2"},
      {"10.0.0.1", 8101, "plaintext plaintext-default"},
      {"10.0.0.1", 79, "plaintext plaintext-default"},
  };
  for (const Case &c : cases) {
    CAPTURE(c.address);
    CAPTURE(c.port);
    CHECK(shown(inbound(policy, c.address, c.port)) == c.decision);
  }
  CHECK(inbound(policy, "10.0.0.1", 80).bare_fin == BareFin::eof);
  CHECK(rule_name(policy, true, 0) == "loopback in the clear");
  CHECK(rule_name(policy, true, 0).data() == policy.inbound[0].name.data());
  CHECK(rule_name(policy, true, 1) == "web");
  CHECK(rule_name(policy, true, kNoRule).empty());
  CHECK(rule_name(policy, false, 0).empty());
}

TEST_CASE("outbound: a caller that does not match never falls to the default") {
  Policy policy = rules(R"(
[[outbound]]
name = "redis"
to = "10.0.0.0/8"
port = 6379
mode = "strict"
expect = "spiffe://example.org/redis"
caller = { module = "libhiredis.so*" }
[[outbound]]
name = "job"
to = "10.0.0.0/8"
port = 7000
mode = "plaintext"
caller = { executable = "/usr/bin/job", frame = "libjob.so!job_*" }
[[outbound]]
name = "rest of 7001"
port = 7001
mode = "strict"
expect = "spiffe://example.org/a"
caller = { executable = "/usr/bin/job" }
[[outbound]]
name = "everyone on 7001"
port = 7001
mode = "plaintext"
)");
  const std::vector<std::string> job = {"libc.so.6!connect", "/opt/lib/libjob.so!job_run"};
  const std::vector<std::string> no_job = {"libc.so.6!connect", "/opt/lib/libjob.so!other"};
  struct Case {
    const char *address;
    std::uint16_t port;
    Outbound caller;
    const char *decision;
  };
  const Case cases[] = {
      {"10.0.0.1", 6379, {.module = "/usr/lib/libhiredis.so.0.14"}, "strict 0"},
      {"10.0.0.1", 6379, {.module = "libhiredis.so"}, "strict 0"},
      {"10.0.0.1", 6379, {.module = "/usr/lib/libevil.so"}, "deny caller-not-matched 0"},
      {"10.0.0.1", 6379, {.module = "/libhiredis.so.0/evil.so"}, "deny caller-not-matched 0"},
      {"10.0.0.1", 6379, {}, "deny caller-not-matched 0"},
      {"11.0.0.1", 6379, {}, "plaintext plaintext-default"},
      {"10.0.0.1", 6380, {}, "plaintext plaintext-default"},
      {"10.0.0.1",
       7000,
       {.executable = "/usr/bin/job", .frames = job, .frames_known = true},
       "plaintext plaintext-rule 1"},
      {"10.0.0.1",
       7000,
       {.executable = "/usr/bin/job", .frames = no_job, .frames_known = true},
       "deny caller-not-matched 1"},
      {"10.0.0.1",
       7000,
       {.executable = "/opt/job", .frames = job, .frames_known = true},
       "deny caller-not-matched 1"},
      {"10.0.0.1", 7000, {.executable = "/usr/bin/job"}, "deny caller-not-matched 1"},
      {"10.0.0.1", 7001, {.executable = "/usr/bin/job"}, "strict 2"},
      {"10.0.0.1", 7001, {.executable = "/usr/bin/cat"}, "plaintext plaintext-rule 3"},
  };
  for (const Case &c : cases) {
    CAPTURE(c.address);
    CAPTURE(c.port);
    CAPTURE(c.caller.module);
    CAPTURE(c.caller.executable);
    CHECK(shown(outbound(policy, c.address, c.port, c.caller)) == c.decision);
  }
  CHECK(policy.needs_module());
  CHECK(policy.needs_frames());
  CHECK_FALSE(policy.needs_names());
}

TEST_CASE("outbound: deny rules match a caller that is not known, and say nothing of the others") {
  Policy policy = rules(R"(
[[outbound]]
name = "no plugin"
port = 443
mode = "deny"
caller = { module = "plugin.so" }
[[outbound]]
name = "no update"
port = 444
mode = "deny"
caller = { frame = "app!update" }
[[outbound]]
name = "no tool"
port = 445
mode = "deny"
caller = { executable = "tool" }
)");
  CHECK(shown(outbound(policy, "10.0.0.1", 443, {.module = "/a/plugin.so"})) ==
        "deny denied-by-rule 0");
  CHECK(shown(outbound(policy, "10.0.0.1", 443)) == "deny denied-by-rule 0");
  CHECK(shown(outbound(policy, "10.0.0.1", 443, {.module = "/a/app"})) ==
        "plaintext plaintext-default");
  CHECK(shown(outbound(policy, "10.0.0.1", 444)) == "deny denied-by-rule 1");
  CHECK(shown(outbound(policy, "10.0.0.1", 444, {.frames_known = true})) ==
        "plaintext plaintext-default");
  CHECK(shown(outbound(policy, "10.0.0.1", 444,
                       {.frames = {"libc.so.6!connect", "/bin/app!update"},
                        .frames_known = true})) == "deny denied-by-rule 1");
  CHECK(shown(outbound(policy, "10.0.0.1", 445)) == "deny denied-by-rule 2");
  CHECK(shown(outbound(policy, "10.0.0.1", 445, {.executable = "/bin/tool"})) ==
        "deny denied-by-rule 2");
  CHECK(shown(outbound(policy, "10.0.0.1", 445, {.executable = "/bin/tool2"})) ==
        "plaintext plaintext-default");
}

TEST_CASE("T57 a name covers what was resolved for it; its port never falls to the default") {
  Policy policy = rules(R"(
[[outbound]]
name = "redis"
to = ["redis.internal", "10.1.0.0/16"]
port = 6379
mode = "strict"
expect = "spiffe://example.org/redis"
[[outbound]]
name = "no tracker"
to = "tracker.test"
port = [6379, 443]
mode = "deny"
)");
  struct Case {
    const char *address;
    std::uint16_t port;
    std::vector<std::string> names;
    const char *decision;
  };
  const Case cases[] = {
      {"10.0.0.1", 6379, {"redis.internal"}, "strict 0"},
      {"10.0.0.1", 6379, {"Redis.Internal."}, "strict 0"},
      {"10.1.0.1", 6379, {}, "strict 0"},
      // The answer changed, the program has its own resolver, or it spelled the name otherwise.
      {"10.0.0.2", 6379, {}, "deny caller-not-matched 0"},
      {"10.0.0.2", 6379, {"redis"}, "deny caller-not-matched 0"},
      {"10.0.0.2", 6379, {"xredis.internal"}, "deny caller-not-matched 0"},
      {"10.0.0.2", 6380, {}, "plaintext plaintext-default"},
      // Several names: deny for one of them is deny; else the rule that names one of them.
      {"10.0.0.1", 6379, {"redis.internal", "tracker.test"}, "deny denied-by-rule 1"},
      {"10.0.0.1", 6379, {"other.test", "redis.internal"}, "strict 0"},
      // A deny rule's name says nothing about other destinations.
      {"10.0.0.2", 443, {}, "plaintext plaintext-default"},
      {"10.0.0.2", 443, {"tracker.test"}, "deny denied-by-rule 1"},
  };
  for (const Case &c : cases) {
    CAPTURE(c.address);
    CAPTURE(c.port);
    CAPTURE(c.names.size());
    CHECK(shown(outbound(policy, c.address, c.port, {.names = c.names})) == c.decision);
  }
  CHECK(policy.needs_names());

  // What the launcher resolved counts like what the process did, for that address only.
  policy.resolved = {{"redis.internal", at("10.0.0.9", 0).address},
                     {"tracker.test", at("::ffff:10.0.0.8", 0).address}};
  CHECK(shown(outbound(policy, "10.0.0.9", 6379)) == "strict 0");
  CHECK(shown(outbound(policy, "::ffff:10.0.0.9", 6379)) == "strict 0");
  CHECK(shown(outbound(policy, "10.0.0.7", 6379)) == "deny caller-not-matched 0");
  CHECK(shown(outbound(policy, "10.0.0.8", 443)) == "deny denied-by-rule 1");
}

TEST_CASE("T56 the many spellings of an address come to one decision") {
  Policy policy = rules(R"(
[[outbound]]
name = "local redis"
to = ["127.0.0.0/8", "::1"]
port = 6379
mode = "strict"
expect = "spiffe://example.org/redis"
[[outbound]]
name = "localhost only"
to = "localhost"
port = 7000
mode = "strict"
expect = "spiffe://example.org/a"
[[outbound]]
name = "link"
to = "fe80::/10"
port = 7001
mode = "strict"
expect = "spiffe://example.org/a"
[[outbound]]
name = "all of IPv6"
to = "::/0"
port = 7002
mode = "deny"
[[outbound]]
name = "all of IPv4"
to = "0.0.0.0/0"
port = 7003
mode = "deny"
[[outbound]]
name = "own address"
to = "10.0.0.7"
port = 7004
mode = "deny"
[[outbound]]
name = "four only"
to = "127.0.0.1"
port = 7005
mode = "deny"
)");
  struct Case {
    const char *address;
    std::uint16_t port;
    const char *bound;
    const char *decision;
  };
  const char *plain = "plaintext plaintext-default";
  const Case cases[] = {
      {"127.0.0.1", 6379, "", "strict 0"},
      {"127.255.0.9", 6379, "", "strict 0"},
      {"::ffff:127.0.0.1", 6379, "", "strict 0"},
      {"::ffff:7f00:1", 6379, "", "strict 0"},
      {"::1", 6379, "", "strict 0"},
      {"0:0:0:0:0:0:0:1", 6379, "", "strict 0"},
      {"0.0.0.0", 6379, "", "strict 0"},
      {"::", 6379, "", "strict 0"},
      {"::ffff:0.0.0.0", 6379, "", "strict 0"},
      {"::127.0.0.1", 6379, "", plain},  // IPv4-compatible: another address
      {"128.0.0.1", 6379, "", plain},
      {"127.0.0.1", 7000, "", "strict 1"},
      {"::1", 7000, "", "strict 1"},
      {"0.0.0.0", 7000, "", "strict 1"},
      {"fe80::1", 7001, "", "strict 2"},
      {"10.0.0.1", 7002, "", plain},
      {"::ffff:10.0.0.1", 7002, "", plain},
      {"2001:db8::1", 7002, "", "deny denied-by-rule 3"},
      {"10.0.0.1", 7003, "", "deny denied-by-rule 4"},
      {"::ffff:10.0.0.1", 7003, "", "deny denied-by-rule 4"},
      {"2001:db8::1", 7003, "", plain},
      // 0.0.0.0 is the socket's own address when it has one.
      {"0.0.0.0", 7004, "10.0.0.7", "deny denied-by-rule 5"},
      {"0.0.0.0", 7004, "", plain},
      {"0.0.0.0", 7004, "0.0.0.0", plain},
      // :: is ::1, or 127.0.0.1: the stricter of the two.
      {"::", 7005, "", "deny denied-by-rule 6"},
      {"::1", 7005, "", plain},
  };
  for (const Case &c : cases) {
    CAPTURE(c.address);
    CAPTURE(c.port);
    CAPTURE(c.bound);
    CHECK(shown(outbound(policy, c.address, c.port, {.bound = c.bound})) == c.decision);
  }
}
