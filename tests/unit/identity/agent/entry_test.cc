#include "identity/agent/entry.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace inlay::identity;
using namespace inlay::identity::agent;

namespace {

constexpr char kHash[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

Workload redis() {
  return {.pid = 100,
          .start_time = 7,
          .uid = 999,
          .gid = 998,
          .groups = {40, 41},
          .executable = "/usr/bin/redis-server",
          .executable_in_place = true,
          .unit = "redis.service",
          .cgroup = "/system.slice/redis.service"};
}

Entry entry(std::uint32_t number, const char *id, Selectors selectors) {
  return {.number = number,
          .id = SpiffeId::parse(id).value(),
          .policy_file = "/etc/inlay/redis.toml",
          .policy = {},
          .selectors = std::move(selectors)};
}

tl::expected<std::string, std::string> digest(const Workload &) { return std::string(kHash); }
tl::expected<std::string, std::string> no_digest(const Workload &) {
  return tl::unexpected<std::string>("its executable cannot be opened");
}

}  // namespace

TEST_CASE("every selector that is written must match") {
  struct Row {
    const char *what;
    Selectors selectors;
    bool matches;
  } rows[] = {
      {"user", {.user = 999}, true},
      {"another user", {.user = 0}, false},
      {"group", {.group = 998}, true},
      {"a supplementary group is not the group", {.group = 40}, false},
      {"groups, supplementary", {.groups = {40, 41}}, true},
      {"groups, effective", {.groups = {998}}, true},
      {"one group too many", {.groups = {40, 42}}, false},
      {"executable", {.executable = "/usr/bin/redis-server"}, true},
      {"executable is no prefix", {.executable = "/usr/bin/redis"}, false},
      {"executable is no pattern", {.executable = "/usr/bin/*"}, false},
      {"hash", {.sha256 = kHash}, true},
      {"another hash", {.sha256 = std::string(64, '0')}, false},
      {"unit", {.unit = "redis.service"}, true},
      {"unit, as a pattern", {.unit = "redis*.service"}, true},
      {"a pattern is of the whole unit", {.unit = "redis"}, false},
      {"cgroup", {.cgroup = "/system.slice/*"}, true},
      {"* does not cross /", {.cgroup = "/*"}, false},
      {"** does", {.cgroup = "/**"}, true},
      {"all of them",
       {.user = 999,
        .group = 998,
        .groups = {41},
        .executable = "/usr/bin/redis-server",
        .sha256 = kHash,
        .unit = "redis.service",
        .cgroup = "/system.slice/redis.service"},
       true},
      {"all but one", {.user = 999, .unit = "nginx.service"}, false},
  };
  for (const Row &row : rows) {
    INFO(row.what);
    std::vector<Entry> entries = {entry(1, "spiffe://example.org/redis", row.selectors)};
    auto chosen = choose(entries, redis(), digest);
    CHECK(chosen.has_value() == row.matches);
    if (!row.matches) CHECK(chosen.error().refusal == AgentRefusal::no_entry);
  }
}

TEST_CASE("a file that is not in its place is not the executable") {
  std::vector<Entry> entries = {
      entry(1, "spiffe://example.org/redis", {.executable = "/usr/bin/redis-server"})};
  Workload elsewhere = redis();
  elsewhere.executable_in_place = false;
  CHECK_FALSE(choose(entries, elsewhere, digest).has_value());
}

TEST_CASE("a unit or cgroup nobody has is matched by no pattern") {
  Workload bare = redis();
  bare.unit = bare.cgroup = "";
  std::vector<Entry> entries = {entry(1, "spiffe://example.org/redis", {.unit = "*.service"})};
  CHECK_FALSE(choose(entries, bare, digest).has_value());
  entries = {entry(1, "spiffe://example.org/redis", {.cgroup = "/**"})};
  CHECK_FALSE(choose(entries, bare, digest).has_value());
}

TEST_CASE("an executable that cannot be read has no hash") {
  std::vector<Entry> entries = {entry(1, "spiffe://example.org/redis", {.sha256 = kHash})};
  CHECK_FALSE(choose(entries, redis(), no_digest).has_value());
}

TEST_CASE("nothing is hashed for a process that does not match otherwise") {
  int asked = 0;
  Digest counted = [&](const Workload &workload) {
    ++asked;
    return digest(workload);
  };
  std::vector<Entry> entries = {
      entry(1, "spiffe://example.org/redis", {.user = 1, .sha256 = kHash})};
  CHECK_FALSE(choose(entries, redis(), counted).has_value());
  CHECK(asked == 0);
}

TEST_CASE("several entries: the same gift or none") {
  std::vector<Entry> entries = {entry(1, "spiffe://example.org/redis", {.user = 999}),
                                entry(2, "spiffe://example.org/redis", {.group = 998})};
  REQUIRE(choose(entries, redis(), digest).has_value());
  CHECK(choose(entries, redis(), digest).value()->number == 1);

  SUBCASE("another ID") {
    entries.push_back(entry(3, "spiffe://example.org/cache", {.unit = "redis.service"}));
    auto chosen = choose(entries, redis(), digest);
    CHECK(chosen.error().refusal == AgentRefusal::several_entries);
    CHECK(chosen.error().told.find("entry 3 (spiffe://example.org/cache)") != std::string::npos);
  }
  SUBCASE("another policy") {
    entries[1].policy_file = "/etc/inlay/other.toml";
    CHECK(choose(entries, redis(), digest).error().refusal == AgentRefusal::several_entries);
  }
}

TEST_CASE("a traced process gets nothing where its entry says so (T61)") {
  std::vector<Entry> entries = {entry(1, "spiffe://example.org/redis", {.user = 999})};
  Workload traced = redis();
  traced.tracer = 5;
  CHECK(choose(entries, traced, digest).has_value());
  entries[0].refuse_traced = true;
  CHECK(choose(entries, traced, digest).error().refusal == AgentRefusal::traced);
  CHECK(choose(entries, redis(), digest).has_value());
}

TEST_CASE("whoever is refused learns nothing of entries that are not its own") {
  std::vector<Entry> entries = {
      entry(1, "spiffe://example.org/secret", {.executable = "/opt/secret/program"})};
  auto chosen = choose(entries, redis(), digest);
  CHECK(chosen.error().told.find("secret") == std::string::npos);
  CHECK(chosen.error().detail.find("secret") == std::string::npos);
}

TEST_CASE("an explanation has every selector, matching or not") {
  Entry of_all = entry(1, "spiffe://example.org/redis",
                       {.user = 1, .executable = "/usr/bin/redis-server", .sha256 = kHash});
  auto results = explain(of_all, redis(), no_digest);
  REQUIRE(results.size() == 3);
  CHECK(results[0].selector == "user");
  CHECK(results[0].wanted == "1");
  CHECK(results[0].found == "999");
  CHECK_FALSE(results[0].matches);
  CHECK(results[1].matches);
  CHECK(results[2].found == "its executable cannot be opened");
}

TEST_CASE("selectors that must overlap are known from themselves") {
  struct Row {
    const char *what;
    Selectors one, other;
    bool overlaps;
  } rows[] = {
      {"the same", {.user = 1}, {.user = 1}, true},
      {"different users", {.user = 1}, {.user = 2}, false},
      {"one asks for more", {.user = 1}, {.user = 1, .executable = "/bin/a"}, true},
      {"each asks for something else", {.user = 1}, {.executable = "/bin/a"}, false},
      {"different executables of a user",
       {.user = 1, .executable = "/bin/a"},
       {.user = 1, .executable = "/bin/b"},
       false},
      {"a unit and a pattern on it", {.unit = "a.service"}, {.unit = "*.service"}, true},
      {"two patterns", {.unit = "a*.service"}, {.unit = "*b.service"}, false},
      {"more groups", {.groups = {1, 2}}, {.groups = {2}}, true},
      {"other groups", {.groups = {1, 2}}, {.groups = {2, 3}}, false},
      {"the group among the groups", {.group = 1}, {.groups = {1}}, true},
      {"cgroup", {.cgroup = "/a/b"}, {.cgroup = "/a/**"}, true},
  };
  for (const Row &row : rows) {
    INFO(row.what);
    CHECK(overlap(row.one, row.other) == row.overlaps);
    CHECK(overlap(row.other, row.one) == row.overlaps);
  }
}

TEST_CASE("every refusal has its name and sentence") {
  CHECK(name(AgentRefusal::malformed) == "malformed");
  CHECK(name(AgentRefusal::internal) == "internal");
  CHECK(refused(AgentRefusal::traced, "detach it").told ==
        "the process is being traced, which its entry does not allow: detach it");
}
