// The store's record of what was issued.
#include <atomic>
#include <thread>

#include "store_setup.h"

using namespace inlay::identity::ca;
using namespace inlay::identity::ca::testing;

TEST_CASE_TEMPLATE("an SVID shown by another node, or unknown, is not taken", Kept, Sqlite,
                   Postgres) {
  const Kept kept;
  Store store = open(kept);
  enroll(store, "web-1", 's', 'k');
  enroll(store, "web-2", 't', 'l');
  REQUIRE(store.record(issuance("a1", "web-1"), "", true));
  CHECK(refused(store.check_node("web-2", "a1", kNow), StoreProblem::refused, "none of the node"));
  CHECK(refused(store.check_node("web-1", "ff", kNow), StoreProblem::refused, "none of the node"));
  CHECK(refused(store.check_node("nobody", "a1", kNow), StoreProblem::refused, "no node"));
  CHECK(refused(store.record(issuance("a2", "web-2"), "a1"), StoreProblem::refused, "revoked"));
  REQUIRE(store.revoke_svid("a1", "leaked", kNow));
  CHECK(refused(store.check_node("web-1", "a1", kNow), StoreProblem::refused, "is revoked"));
  CHECK(refused(store.revoke_svid("ff", "", kNow), StoreProblem::not_found, "serial number ff"));
}

TEST_CASE_TEMPLATE("an SVID under a root that is revoked is not taken, whatever showed it", Kept,
                   Sqlite, Postgres) {
  const Kept kept;
  Store store = open(kept);
  enroll(store, "web-1", 's', 'k');
  const auto move = [&](AuthorityState state) {
    REQUIRE(store.change_authorities([&](AuthorityRows &rows) -> Stored<void> {
      if (rows.empty()) rows.emplace_back();
      rows[0].id = "i";
      rows[0].kind = AuthorityKind::intermediate;
      rows[0].state = state;
      return {};
    }));
  };
  move(AuthorityState::active);
  Issuance first = issuance("a1", "web-1");
  first.issuer = "i";
  REQUIRE(store.record(first, "", true));
  for (const auto state :
       {AuthorityState::active, AuthorityState::retired, AuthorityState::tainted}) {
    move(state);
    CHECK(store.check_node("web-1", "a1", kNow));
  }
  move(AuthorityState::revoked);
  CHECK(refused(store.check_node("web-1", "a1", kNow), StoreProblem::refused, "rests on a root"));
}

TEST_CASE_TEMPLATE("a node revoked while it is issued something: refused, or on the list", Kept,
                   Sqlite, Postgres) {
  const Kept kept;
  Store first = open(kept), second = open(kept);
  for (int round = 0; round < 10; ++round) {
    const std::string node = "web-" + std::to_string(round);
    enroll(first, node, static_cast<char>(2 * round), 'k');
    std::atomic<int> recorded = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        const std::string serial = std::to_string(round) + "-" + std::to_string(i);
        if (second.record(issuance(serial, node), "")) ++recorded;
      });
    }
    const auto revoked = first.revoke_node(node, "", kNow);
    for (std::thread &thread : threads) thread.join();
    REQUIRE(revoked);
    CHECK(static_cast<int>(*revoked) == recorded);
  }
}

TEST_CASE_TEMPLATE("what ended is forgotten, not before its end", Kept, Sqlite, Postgres) {
  const Kept kept;
  Store store = open(kept);
  enroll(store, "web-1", 's', 'k');
  REQUIRE(store.record(issuance("a1", "web-1", kNow + 100), "", true));
  REQUIRE(store.record(issuance("a2", "web-1", kNow + 9000), "a1"));
  CHECK(store.forget_ended(kNow + 86000).value() == 0);
  CHECK(store.forget_ended(kNow + 87000).value() == 1);
  CHECK(refused(store.issuance("a1"), StoreProblem::not_found, "a1"));
  CHECK(store.issuance("a2"));
}

TEST_CASE_TEMPLATE("a machine rests on a root while it has nothing newer of the same ID", Kept,
                   Sqlite, Postgres) {
  const Kept kept;
  Store store = open(kept);
  REQUIRE(store.change_authorities([](AuthorityRows &rows) -> Stored<void> {
    for (const std::string id : {"old", "new"}) {
      rows.emplace_back().id = id;
      AuthorityRow &intermediate = rows.emplace_back();
      intermediate.id = id + "-1";
      intermediate.kind = AuthorityKind::intermediate;
      intermediate.issuer = id;
    }
    return {};
  }));
  enroll(store, "web-1", 's', 'k');
  enroll(store, "web-2", 't', 'l');
  std::time_t issued_at = kNow;
  const auto record = [&](std::string serial, const std::string &node, const std::string &id,
                          const std::string &issuer, std::time_t not_after) {
    Issuance one = issuance(std::move(serial), node, not_after);
    one.spiffe_id = "spiffe://example.org/" + id;
    one.issuer = issuer;
    one.issued_at = ++issued_at;
    REQUIRE(store.record(one, ""));
  };
  const auto resting = [&](std::time_t now = kNow + 1) {
    return store.resting_on("old", now).value();
  };
  record("c0", "", "inlay/ca", "old-1", kNow + 900);  // the authority's own replaces itself
  CHECK(resting().empty());
  record("a0", "web-1", "a", "old-1", kNow + 100);
  record("a1", "web-1", "a", "old-1", kNow + 200);
  record("b0", "web-1", "b", "old-1", kNow + 300);
  record("a2", "web-2", "a", "old-1", kNow + 400);
  CHECK(resting() == std::vector<Resting>{{"web-1", 2, kNow + 300}, {"web-2", 1, kNow + 400}});
  CHECK(store.resting_on("new", kNow).value().empty());
  // Replaced; and the same ID on another machine is another SVID.
  record("a3", "web-1", "a", "new-1", kNow + 500);
  CHECK(resting() == std::vector<Resting>{{"web-1", 1, kNow + 300}, {"web-2", 1, kNow + 400}});
  CHECK(store.resting_on("new", kNow).value() == std::vector<Resting>{{"web-1", 1, kNow + 500}});
  // What has ended, or is revoked, is nobody's worry.
  CHECK(resting(kNow + 301) == std::vector<Resting>{{"web-2", 1, kNow + 400}});
  // Nor does what is tainted itself replace anything.
  const auto taint = [&](AuthorityState state) {
    REQUIRE(store.change_authorities([&](AuthorityRows &rows) -> Stored<void> {
      for (AuthorityRow &row : rows) row.state = row.id.starts_with("new") ? state : row.state;
      return {};
    }));
  };
  taint(AuthorityState::tainted);
  CHECK(resting() == std::vector<Resting>{{"web-1", 2, kNow + 300}, {"web-2", 1, kNow + 400}});
  taint(AuthorityState::active);
  REQUIRE(store.revoke_node("web-2", "lost", kNow + 1));
  CHECK(resting() == std::vector<Resting>{{"web-1", 1, kNow + 300}});
}
