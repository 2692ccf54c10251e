#include "policy/snapshot.h"

#include <doctest/doctest.h>

#include <random>
#include <string>

#include "sample.h"

using namespace inlay::policy;

namespace {

Policy everything() {
  Policy policy = sample::good(sample::with_defaults("plaintext", "strict") + R"(
handshake_timeout = "1234ms"
bare_fin = "eof"
[log]
file = "x.log"
[[inbound]]
name = "web"
port = [80, "8000-8009", "*"]
address = ["10.0.0.0/8", "::1"]
mode = "strict"
allow = ["spiffe://example.org/ns/web/**"]
deny = ["spiffe://example.org/ns/web/old"]
[[outbound]]
name = "redis"
to = ["10.0.0.0/8", "redis.internal"]
port = 6379
mode = "strict"
expect = ["spiffe://example.org/redis", "spiffe://partner.test/*"]
caller = { module = "a", frame = "b!c", executable = "d" }
[[outbound]]
name = "no smtp"
port = 25
mode = "deny"
)");
  policy.identity.agent = "/run/inlay/agent.sock";
  policy.identity.crl = "/run/crl.pem";
  policy.identity.accept_stale_crl = true;
  policy.defaults.keep_distrusted = true;
  policy.resolved = {{"redis.internal", *Address::parse("10.0.0.1")},
                     {"redis.internal", *Address::parse("fd00::1")}};
  policy.strict = true;
  policy.source = {.file = "/etc/inlay/inlay.toml",
                   .device = 1,
                   .inode = UINT64_MAX,
                   .size = 3,
                   .modified_ns = -5,
                   .changed_ns = INT64_MAX};
  return policy;
}

// As serialize() does, for blocks made by hand.
std::string with_checksum(std::string block) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < block.size(); ++i) {
    if (i >= 12 && i < 20) continue;
    hash = (hash ^ static_cast<unsigned char>(block[i])) * 0x100000001b3;
  }
  for (std::size_t i = 0; i < 8; ++i) block[12 + i] = static_cast<char>(hash >> (8 * i));
  return block;
}

}  // namespace

TEST_CASE("a policy comes out of its snapshot as it went in") {
  for (const Policy &policy : {everything(), Policy{}}) {
    std::string block = serialize(policy);
    CHECK(with_checksum(block) == block);
    auto back = deserialize(block);
    REQUIRE(back.has_value());
    CHECK(back->trust_domain == policy.trust_domain);
    CHECK(back->identity == policy.identity);
    CHECK(back->defaults == policy.defaults);
    CHECK(back->log_file == policy.log_file);
    CHECK(back->inbound == policy.inbound);
    CHECK(back->outbound == policy.outbound);
    CHECK(back->resolved == policy.resolved);
    CHECK(back->strict == policy.strict);
    CHECK(back->source == policy.source);
  }
}

TEST_CASE("T52 a snapshot cut short anywhere is refused") {
  std::string block = serialize(everything());
  for (std::size_t length = 0; length < block.size(); ++length) {
    CAPTURE(length);
    auto back = deserialize(std::span(block).first(length));
    REQUIRE_FALSE(back.has_value());
    if (length < 20) CHECK(back.error() == SnapshotError::too_short);
    // Even with a checksum that fits.
    if (length >= 20) CHECK_FALSE(deserialize(with_checksum(block.substr(0, length))).has_value());
  }
  CHECK_FALSE(deserialize(with_checksum(block + '\0')).has_value());
}

TEST_CASE("T52 a snapshot with any byte changed is refused") {
  const std::string block = serialize(everything());
  for (std::size_t i = 0; i < block.size(); ++i) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string changed = block;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      if (deserialize(changed).has_value()) FAIL_CHECK("byte " << i << ", bit " << bit);
    }
  }
}

TEST_CASE("T52 a snapshot of another version or kind is refused with its own error") {
  std::string block = serialize(everything());
  std::string older = block, newer = block, other = block;
  older[8] = 0;
  newer[8] = static_cast<char>(newer[8] + 1);
  other[0] = 'X';
  CHECK(deserialize(with_checksum(older)).error() == SnapshotError::wrong_version);
  CHECK(deserialize(with_checksum(newer)).error() == SnapshotError::wrong_version);
  CHECK(deserialize(with_checksum(other)).error() == SnapshotError::wrong_magic);
  std::string damaged = block;
  damaged[30] = static_cast<char>(damaged[30] + 1);
  CHECK(deserialize(damaged).error() == SnapshotError::checksum);
  CHECK(deserialize(std::span<const char>()).error() == SnapshotError::too_short);
}

TEST_CASE("T52 values that cannot be are refused even where the checksum fits") {
  // Never a crash, an over-read or a huge allocation; what comes out holds only valid values.
  const std::string block = serialize(everything());
  std::mt19937 random(52);
  for (int i = 0; i < 20000; ++i) {
    std::string changed = block;
    for (auto n = 1 + random() % 3; n > 0; --n) {
      changed[20 + random() % (block.size() - 20)] = static_cast<char>(random());
    }
    auto back = deserialize(with_checksum(changed));
    if (!back) continue;
    for (const InboundRule &rule : back->inbound) {
      CHECK(rule.mode <= Mode::deny);
      for (const PortRange &range : rule.ports) CHECK(range.first <= range.last);
      for (const IdPattern &pattern : rule.allow) CHECK(IdPattern::parse(pattern.text()));
    }
  }
  std::string huge = block.substr(0, 20) + std::string(4, '\xff') + block.substr(24);
  CHECK(deserialize(with_checksum(huge)).error() == SnapshotError::malformed);
}
