#include "identity/agent_snapshot.h"

#include <doctest/doctest.h>

namespace inlay::identity {
namespace {

AgentSnapshot sample() {
  AgentSnapshot snapshot;
  snapshot.policy = std::string("policy\0block", 12);
  snapshot.svid = {"leaf", "intermediate"};
  snapshot.bundles = {{"example.org", {"root", std::string("\0\xff", 2)}}, {"empty.example", {}}};
  snapshot.crls = {"crl"};
  return snapshot;
}

tl::expected<AgentSnapshot, std::string> parse(const std::string &block) {
  return parse_agent_snapshot({block.data(), block.size()});
}

TEST_CASE("a snapshot of the agent comes back as it was") {
  AgentSnapshot without;
  without.why_no_svid = "the source is down";
  for (const AgentSnapshot &snapshot : {sample(), without, AgentSnapshot{}}) {
    auto parsed = parse(serialize(snapshot));
    REQUIRE(parsed);
    CHECK(*parsed == snapshot);
  }
}

TEST_CASE("T52 a snapshot cut anywhere, or with anything behind it, is an error") {
  const std::string whole = serialize(sample());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CHECK_FALSE(parse(whole.substr(0, length)));
  }
  CHECK_FALSE(parse(whole + '\0'));
}

TEST_CASE("T52 a length or a count beyond the block is an error, and reserves nothing") {
  std::string block = serialize(sample());
  for (std::size_t at = 8; at + 4 <= block.size(); ++at) {
    std::string broken = block;
    broken.replace(at, 4, "\xff\xff\xff\xff");
    (void)parse(broken);  // no crash, no memory: what it says depends on what was hit
  }
  CHECK_FALSE(parse(block.replace(8, 4, "\xff\xff\xff\xff")));
}

TEST_CASE("a snapshot of another version, or two bundles of one trust domain, are refused") {
  std::string block = serialize(sample());
  block[7] = '2';
  CHECK_FALSE(parse(block));
  AgentSnapshot two = sample();
  two.bundles = {{"a.example", {}}, {"b.example", {}}};
  block = serialize(two);
  block.replace(block.find("b.example"), 1, "a");
  CHECK_FALSE(parse(block));
}

}  // namespace
}  // namespace inlay::identity
