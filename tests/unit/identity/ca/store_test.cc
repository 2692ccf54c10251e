#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "store_setup.h"

using namespace inlay::identity::ca;
using namespace inlay::identity::ca::testing;

TEST_CASE_TEMPLATE("a store is of one trust domain, and opens again", Kept, Sqlite, Postgres) {
  const Kept kept;
  { CHECK(open(kept).generation().value() == 1); }
  CHECK(open(kept).generation().value() == 1);
  CHECK(refused(Store::open(kept.open(), "example.com"), StoreProblem::refused,
                "is of the trust domain example.org, the configuration says example.com"));
  const DatabasePtr database = kept.open();
  REQUIRE(database->transaction([](Connection &connection) {
    return connection.query("UPDATE meta SET number = 99 WHERE name = 'schema'")
        .map([](const Rows &) {});
  }));
  CHECK(refused(Store::open(kept.open(), "example.org"), StoreProblem::refused, "newer version"));
}

TEST_CASE_TEMPLATE("several servers may make the tables at the same time", Kept, Sqlite, Postgres) {
  const Kept kept;
  std::vector<DatabasePtr> databases;
  for (int i = 0; i < 4; ++i) databases.push_back(kept.open());
  std::vector<std::thread> threads;
  for (DatabasePtr &database : databases) {
    threads.emplace_back([&] {
      const auto store = Store::open(std::move(database), "example.org");
      CHECK_MESSAGE(store, (store ? "" : store.error().message));
    });
  }
  for (std::thread &thread : threads) thread.join();
}

TEST_CASE_TEMPLATE("T69: of 100 concurrent tries at one token with different keys one wins", Kept,
                   Sqlite, Postgres) {
  const Kept kept;
  Store first = open(kept), second = open(kept);
  give_token(first, 's', "web-1");
  std::atomic<int> won = 0, used = 0, failed = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 100; ++i) {
    threads.emplace_back([&, i] {
      Store &store = i % 2 == 0 ? first : second;
      const auto enrolled = store.enroll(use('s', static_cast<char>(i)));
      if (!enrolled) {
        ++failed;
      } else if (*enrolled) {
        ++won;
      } else if (enrolled->error() == TokenRefusal::used) {
        ++used;
      }
    });
  }
  for (std::thread &thread : threads) thread.join();
  CHECK(won == 1);
  CHECK(used == 99);
  CHECK(failed == 0);
  CHECK(first.generation().value() == 2);
  CHECK(first.nodes()->size() == 1);
}

TEST_CASE_TEMPLATE("a token: unknown, expired, used, and once more with the same key", Kept, Sqlite,
                   Postgres) {
  const Kept kept;
  Store store = open(kept);
  CHECK(store.enroll(use('?', 'k'))->error() == TokenRefusal::unknown);
  give_token(store, 'e', "web-1");
  CHECK(store.enroll(use('e', 'k', kNow + 600))->error() == TokenRefusal::expired);
  CHECK(refused(store.node("web-1"), StoreProblem::not_found, "no node \"web-1\""));

  give_token(store, 's', "web-1");
  const auto enrolled = store.enroll(use('s', 'k'));
  REQUIRE(enrolled);
  REQUIRE(*enrolled);
  CHECK((*enrolled)->node == "web-1");
  CHECK_FALSE((*enrolled)->again);
  CHECK(store.enroll(use('s', 'x'))->error() == TokenRefusal::used);
  const auto again = store.enroll(use('s', 'k', kNow + 599));
  REQUIRE(again);
  REQUIRE(*again);
  CHECK((*again)->again);
  CHECK(store.enroll(use('s', 'k', kNow + 600))->error() == TokenRefusal::expired);

  const auto node = store.node("web-1");
  REQUIRE(node);
  CHECK(node->state == NodeState::enrolled);
  CHECK(node->key_digest == digest('k'));
  CHECK(node->hostname == "host");
  CHECK(node->address == "192.0.2.1");
  CHECK(node->enrolled_at == kNow + 1);
}

TEST_CASE_TEMPLATE("a token that comes with another node's name is not spent", Kept, Sqlite,
                   Postgres) {
  const Kept kept;
  Store store = open(kept);
  give_token(store, 's', "web-1");
  TokenUse tried = use('s', 'k');
  for (const char *name : {"web-2", "web", "WEB-1", "web-1"}) {
    tried.node = name;
    const auto enrolled = store.enroll(tried);
    REQUIRE(enrolled);
    CHECK(enrolled->has_value() == (tried.node == "web-1"));
    if (!*enrolled) CHECK(enrolled->error() == TokenRefusal::unknown);
  }
  tried.node = "web-2";  // nor once it is
  CHECK(!store.enroll(tried)->has_value());
}

TEST_CASE_TEMPLATE("a revoked node is out: its SVIDs, its tokens, used or not", Kept, Sqlite,
                   Postgres) {
  const Kept kept;
  Store store = open(kept);
  enroll(store, "web-1", 's', 'k');
  enroll(store, "web-2", 't', 'l');
  give_token(store, 'u', "web-1");
  REQUIRE(store.record(issuance("a1", "web-1"), "", true));
  REQUIRE(store.record(issuance("a2", "web-1"), "a1"));
  REQUIRE(store.record(issuance("b1", "web-2"), "", true));
  CHECK(store.check_node("web-1", "a1", kNow));
  CHECK(store.node("web-1")->not_after == kNow + 3600);
  const std::uint64_t before = store.generation().value();

  CHECK(store.revoke_node("web-1", "stolen", kNow + 10).value() == 2);
  CHECK(store.generation().value() == before + 1);
  CHECK(refused(store.check_node("web-1", "a1", kNow), StoreProblem::refused, "is revoked"));
  CHECK(refused(store.record(issuance("a3", "web-1"), "a1"), StoreProblem::refused,
                "not enrolled (it is revoked)"));
  CHECK(store.enroll(use('s', 'k', kNow + 10))->error() == TokenRefusal::expired);
  CHECK(store.enroll(use('u', 'k', kNow + 10))->error() == TokenRefusal::expired);
  CHECK(refused(store.rejoin("web-1", digest('k'), kNow + 9999), StoreProblem::refused, "revoked"));
  CHECK(refused(store.approve("web-1"), StoreProblem::refused, "it is revoked"));
  const auto revoked = store.revoked(kNow + 20);
  REQUIRE(revoked);
  REQUIRE(revoked->size() == 2);
  CHECK((*revoked)[0].serial == "a1");
  CHECK((*revoked)[0].revoked_at == kNow + 10);
  CHECK((*revoked)[0].reason == "stolen");
  CHECK(store.check_node("web-2", "b1", kNow));
  CHECK(refused(store.revoke_node("web-9", "", kNow), StoreProblem::not_found, "inlay ca agents"));

  // A fresh token brings it back, with another key.
  enroll(store, "web-1", 'v', 'n');
  CHECK(store.node("web-1")->state == NodeState::enrolled);
  CHECK(refused(store.check_node("web-1", "a1", kNow), StoreProblem::refused, "is revoked"));
}

TEST_CASE_TEMPLATE("enrolling anew revokes what the node had with its old key", Kept, Sqlite,
                   Postgres) {
  const Kept kept;
  Store store = open(kept);
  enroll(store, "web-1", 's', 'k');
  REQUIRE(store.record(issuance("a1", "web-1"), "", true));
  enroll(store, "web-1", 't', 'l');
  CHECK(store.issuance("a1")->revoked_at == kNow + 1);
  CHECK(refused(store.record(issuance("a2", "web-1"), "a1"), StoreProblem::refused, "is revoked"));
  // The token of the key that was replaced gives nothing any more.
  CHECK(store.enroll(use('s', 'k'))->error() == TokenRefusal::used);
}

TEST_CASE_TEMPLATE("a node whose SVID ended waits until it is approved", Kept, Sqlite, Postgres) {
  const Kept kept;
  Store store = open(kept);
  enroll(store, "web-1", 's', 'k');
  REQUIRE(store.record(issuance("a1", "web-1", kNow + 100), "", true));
  CHECK(refused(store.rejoin("web-1", digest('k'), kNow + 50), StoreProblem::refused,
                "it renews with that"));
  CHECK(refused(store.rejoin("web-1", digest('x'), kNow + 200), StoreProblem::refused,
                "another key"));
  CHECK(refused(store.approve("web-1"), StoreProblem::refused, "does not wait"));
  CHECK(store.rejoin("web-1", digest('k'), kNow + 200).value() == false);
  CHECK(store.node("web-1")->state == NodeState::waiting);
  CHECK(refused(store.record(issuance("a2", "web-1"), ""), StoreProblem::refused, "waiting"));
  CHECK(store.rejoin("web-1", digest('k'), kNow + 201).value() == false);
  REQUIRE(store.approve("web-1"));
  CHECK(store.rejoin("web-1", digest('k'), kNow + 202).value() == true);
  CHECK(store.node("web-1")->state == NodeState::enrolled);
  CHECK(store.record(issuance("a2", "web-1"), "", true));
}

TEST_CASE_TEMPLATE("entries: each is kept as it was given, and goes to the nodes it names", Kept,
                   Sqlite, Postgres) {
  const Kept kept;
  Store store = open(kept);
  Entry entry{.id = "",
              .spiffe_id = "spiffe://example.org/redis",
              .nodes = "web-*",
              .selectors = {"user=redis", "executable=/usr/bin/redis-server"},
              .policy = "trust_domain = \"example.org\"\n",
              .hint = "db",
              .svid_ttl = 600,
              .workload_api = false,
              .refuse_traced = true,
              .federates_with = {"partner.test", "other.test"},
              .created_at = kNow};
  const auto added = store.add_entry(entry);
  REQUIRE(added);
  CHECK(added->id.size() == 12);
  CHECK(store.generation().value() == 2);
  CHECK(store.entries().value() == std::vector{*added});
  for (const char *id : {"spiffe://example.org/inlay", "spiffe://example.org/inlay/node/db-1",
                         "spiffe://example.org/inlay/ca", "spiffe://example.org", "redis"}) {
    Entry taken = entry;
    taken.spiffe_id = id;
    CHECK(refused(
        store.add_entry(taken), StoreProblem::refused,
        std::string(id).find("/inlay") != std::string::npos ? "below /inlay/" : "no workload"));
  }
  entry.hint = "another";
  CHECK(refused(store.add_entry(entry), StoreProblem::exists, "already"));
  entry.nodes = "db-1";
  entry.federates_with.clear();
  REQUIRE(store.add_entry(entry));
  CHECK(store.entries_of("web-7").value() == std::vector{*added});
  CHECK(store.entries_of("db-1")->size() == 1);
  CHECK(store.entries_of("db-2")->empty());
  CHECK(store.remove_entry(added->id).value() == *added);
  CHECK(refused(store.remove_entry(added->id), StoreProblem::not_found, "inlay ca entry list"));
  CHECK(store.entries()->size() == 1);
  CHECK(store.generation().value() == 4);
}

TEST_CASE_TEMPLATE("bundles of others: only a change is one", Kept, Sqlite, Postgres) {
  const Kept kept;
  Store store = open(kept);
  REQUIRE(store.set_bundle({"partner.test", "{}", kNow}));
  REQUIRE(store.set_bundle({"partner.test", "{}", kNow + 1}));
  CHECK(store.generation().value() == 2);
  REQUIRE(store.set_bundle({"partner.test", "{\"keys\":[]}", kNow + 2}));
  CHECK(store.generation().value() == 3);
  CHECK(store.bundles()->size() == 1);
  CHECK(store.bundles()->front().document == "{\"keys\":[]}");
  CHECK(store.remove_bundle("partner.test"));
  CHECK(refused(store.remove_bundle("partner.test"), StoreProblem::not_found, "no bundle"));
}

TEST_CASE_TEMPLATE("authorities are changed by one at a time, whole or not at all", Kept, Sqlite,
                   Postgres) {
  const Kept kept;
  Store first = open(kept), second = open(kept);
  // Each of many servers that starts makes a root only when there is none yet.
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      Store &store = i % 2 == 0 ? first : second;
      CHECK(store.change_authorities([&](std::vector<AuthorityRow> &rows) -> Stored<void> {
        if (rows.empty()) {
          rows.push_back({.id = "root" + std::to_string(i),
                          .kind = AuthorityKind::root,
                          .state = AuthorityState::active,
                          .issuer = "",
                          .certificate = std::string("\0der", 4),
                          .sealed_key = std::string("\0key", 4),
                          .created_at = kNow,
                          .changed_at = kNow,
                          .not_after = kNow + 1000});
        }
        return {};
      }));
    });
  }
  for (std::thread &thread : threads) thread.join();
  const auto rows = first.authorities();
  REQUIRE(rows);
  REQUIRE(rows->size() == 1);
  CHECK(rows->front().certificate == std::string("\0der", 4));
  CHECK(first.generation().value() == 2);

  CHECK(refused(first.change_authorities([](std::vector<AuthorityRow> &changed) -> Stored<void> {
    changed.front().state = AuthorityState::revoked;
    return tl::unexpected(StoreError{StoreProblem::refused, "not yet"});
  }),
                StoreProblem::refused, "not yet"));
  CHECK(first.authorities().value() == *rows);
  const auto revoked =
      second.change_authorities([](std::vector<AuthorityRow> &changed) -> Stored<void> {
        changed.front().state = AuthorityState::revoked;
        changed.front().sealed_key.clear();
        return {};
      });
  REQUIRE(revoked);
  CHECK(first.authorities().value() == *revoked);
  CHECK(first.authorities()->front().sealed_key.empty());
}
