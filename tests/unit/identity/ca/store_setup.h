// What the tests of the store begin with.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include "identity/ca/store.h"
#include "postgres_server.h"

namespace inlay::identity::ca::testing {

inline constexpr std::time_t kNow = 1'800'000'000;

template <typename Kept>
Store open(const Kept &kept) {
  auto store = Store::open(kept.open(), "example.org");
  REQUIRE_MESSAGE(store, (store ? "" : store.error().message));
  return std::move(*store);
}

inline std::string digest(char c) { return std::string(32, c); }

inline void give_token(Store &store, char secret, const std::string &node) {
  REQUIRE(store.add_token({digest(secret), node, kNow, kNow + 600}));
}

inline TokenUse use(char secret, char key, std::time_t now = kNow + 1) {
  return {digest(secret), digest(key), "host", "192.0.2.1", now};
}

inline void enroll(Store &store, const std::string &node, char secret, char key) {
  give_token(store, secret, node);
  const auto enrolled = store.enroll(use(secret, key));
  REQUIRE(enrolled);
  REQUIRE(*enrolled);
}

inline Issuance issuance(std::string serial, std::string node,
                         std::time_t not_after = kNow + 3600) {
  return {.serial = std::move(serial),
          .spiffe_id = "spiffe://example.org/web",
          .node = std::move(node),
          .issuer = "0123456789abcdef",
          .issued_at = kNow,
          .not_after = not_after,
          .revoked_at = 0,
          .reason = ""};
}

template <typename T>
bool refused(const Stored<T> &outcome, StoreProblem problem, std::string_view part) {
  if (outcome) return false;
  INFO(outcome.error().message);
  CHECK(outcome.error().problem == problem);
  CHECK(outcome.error().message.find('\n') == std::string::npos);
  return outcome.error().message.find(part) != std::string::npos;
}

}  // namespace inlay::identity::ca::testing
