#include "identity/ca/issuing.h"

#include <doctest/doctest.h>

#include "postgres_server.h"

using namespace inlay::identity::ca;

TEST_CASE("one address enrols so many at once and no more; others do not wait for it") {
  const testing::Sqlite kept;
  auto store = Store::open(kept.open(), "example.org");
  REQUIRE(store);
  std::string last_reason;
  const IssuingHost host{.store = *store,
                         .in_force = [] { return nullptr; },
                         .audit = [&](const AuditRecord &record) { last_reason = record.reason; },
                         .now = [] { return std::time(nullptr); }};
  Issuing issuing(host, {.trust_domain = "example.org", .enrolments_per_second = 1});
  const auto refusal = [&](const char *address) {
    const auto issued = issuing.enroll({.secret = "guess", .csr = "none", .hostname = ""}, address);
    REQUIRE_FALSE(issued);
    CHECK(last_reason == name(issued.error().refusal));
    return issued.error().refusal;
  };
  // Ten may come at once, and one more each second that this takes.
  int tries = 0;
  while (refusal("192.0.2.1:1024") == Refusal::invalid) REQUIRE(++tries < 10'000);
  CHECK(tries >= 10);
  CHECK(refusal("192.0.2.2:1024") == Refusal::invalid);
  CHECK(refusal("[2001:db8::1]:1024") == Refusal::invalid);
}
