// Traffic secrets, keys and their updates.
#include <doctest/doctest.h>

#include "bytes.h"
#include "tls/record.h"

using namespace inlay::tls;
using namespace inlay::tls::test;

TEST_CASE("keys of RFC 8448 §3 are derived from its traffic secrets") {
  struct Row {
    const char *secret, *key, *iv;
  };
  const Row rows[] = {
      {kClientSecret, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"},
      {kServerSecret, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"},
  };
  for (const Row &row : rows) {
    TrafficState state;
    REQUIRE(derive(state, Suite::aes_128_gcm_sha256, hex(row.secret)));
    CHECK(Bytes(state.key.begin(), state.key.begin() + 16) == hex(row.key));
    CHECK(Bytes(state.iv.begin(), state.iv.end()) == hex(row.iv));
    CHECK(state.sequence == 0);
    CHECK(state.key_generation == 0);
  }
}

TEST_CASE("a key update is due well before the limit") {
  TrafficState state = state_of(Suite::aes_128_gcm_sha256);
  CHECK_FALSE(update_due(state));
  state.sequence = (1 << 23) - 1;
  CHECK_FALSE(update_due(state));
  state.sequence = 1 << 23;
  CHECK(update_due(state));
  state.suite = Suite::chacha20_poly1305_sha256;
  CHECK_FALSE(update_due(state));
}

TEST_CASE("update gives the next secret, key and iv of RFC 8446 §7.2") {
  // The next secret after RFC 8448 §3's client secret; computed with HMAC of Python's
  // standard library.
  TrafficState state;
  REQUIRE(derive(state, Suite::aes_128_gcm_sha256, hex(kClientSecret)));
  state.sequence = 77;
  REQUIRE(update(state));
  CHECK(state.sequence == 0);
  CHECK(state.key_generation == 1);
  CHECK(Bytes(state.secret.begin(), state.secret.begin() + 32) ==
        hex("fcdfcc72725aaee48bf64e4fd8b749cdbdbab39d90da0b26e2245ca6ea167207"));
  CHECK(Bytes(state.key.begin(), state.key.begin() + 16) ==
        hex("3879d82f5f14056e623f2ce5bfc66fce"));
  CHECK(Bytes(state.iv.begin(), state.iv.end()) == hex("5dfb2c5938c3379b6cc5d1f2"));
}

TEST_CASE("update changes the key in every suite and counts generations") {
  for (Suite suite : kSuites) {
    TrafficState state = state_of(suite);
    for (std::uint16_t generation = 1; generation < 4; ++generation) {
      const TrafficState before = state;
      REQUIRE(update(state));
      CHECK(state.key_generation == generation);
      CHECK(state.suite == suite);
      CHECK(state.key != before.key);
      CHECK(state.iv != before.iv);
      CHECK(state.secret != before.secret);
      CHECK(RecordCipher::make(state, true)->key_generation() == generation);
    }
  }
}

TEST_CASE("deriving from a secret of the wrong length or for no suite is refused") {
  TrafficState state;
  CHECK_FALSE(derive(state, Suite::none, Bytes(32)));
  CHECK_FALSE(derive(state, Suite::aes_128_gcm_sha256, Bytes(48)));
  CHECK_FALSE(derive(state, Suite::aes_256_gcm_sha384, Bytes(32)));
  CHECK_FALSE(update(state));
  CHECK(RecordCipher::make(state, true) == nullptr);
}
