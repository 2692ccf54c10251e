#include "policy/live.h"

#include <doctest/doctest.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "policy/load.h"
#include "policy/snapshot.h"
#include "sample.h"
#include "temporary_folder.h"

using namespace inlay::policy;
using inlay::policy::sample::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

std::string with_port(int port) {
  return sample::with_defaults("deny", "plaintext") +
         "[[outbound]]\nname = \"x\"\nto = \"redis.internal\"\nmode = \"deny\"\nport = " +
         std::to_string(port) + "\n";
}

int port_of(const Policy *policy) { return policy->outbound.at(0).ports.at(0).first; }

}  // namespace

TEST_CASE("T51 a broken file leaves the last good policy in force and says why") {
  TemporaryFolder folder;
  LivePolicy live(folder / "inlay.toml");
  CHECK(live.current() == nullptr);
  CHECK(live.generation() == 0);
  CHECK_FALSE(live.refresh());
  CHECK(live.last_error().find("does not exist") != std::string::npos);
  CHECK(live.current() == nullptr);

  folder.replace("inlay.toml", with_port(1));
  CHECK(live.refresh());
  CHECK(live.last_error().empty());
  CHECK(live.generation() == 1);
  const Policy *first = live.current();
  REQUIRE(first != nullptr);
  CHECK(port_of(first) == 1);

  for (const std::string &broken :
       {std::string("trust_domain ="), with_port(0), with_port(2) + "colour = \"red\"\n",
        with_port(2).substr(0, 60), std::string()}) {
    folder.replace("inlay.toml", broken);
    CHECK_FALSE(live.refresh());
    CHECK(live.last_error().find(folder / "inlay.toml:") == 0);
    CHECK(live.current() == first);
    CHECK(live.generation() == 1);
  }
  fs::permissions(folder.write("inlay.toml", with_port(2)), fs::perms::all);
  CHECK_FALSE(live.refresh());
  CHECK(live.last_error().find("may be written by everyone") != std::string::npos);
  fs::permissions(folder / "inlay.toml", fs::perms::owner_read | fs::perms::owner_write);
  CHECK(live.refresh());
  CHECK(port_of(live.current()) == 2);
  CHECK(live.last_error().empty());

  fs::remove(folder / "inlay.toml");
  CHECK_FALSE(live.refresh());
  CHECK(live.last_error().find("does not exist") != std::string::npos);
  CHECK(port_of(live.current()) == 2);
  CHECK(port_of(first) == 1);  // still there for whoever holds it
}

TEST_CASE("a new policy is noticed however it gets there, same length and same second included") {
  TemporaryFolder folder;
  fs::create_directories(folder / "v1");
  fs::create_directories(folder / "v2");
  folder.write("v1/inlay.toml", with_port(1));
  folder.write("v2/inlay.toml", with_port(2));
  fs::create_directory_symlink("v1", folder / "data");
  fs::create_symlink("data/inlay.toml", folder / "inlay.toml");
  LivePolicy live(folder / "inlay.toml");
  CHECK(live.refresh());
  CHECK(port_of(live.current()) == 1);
  fs::create_directory_symlink("v2", folder / "data.new");  // as Kubernetes volumes do it
  fs::rename(folder / "data.new", folder / "data");
  CHECK(live.refresh());
  CHECK(port_of(live.current()) == 2);
  for (int port = 3; port < 9; ++port) {
    folder.write("v2/inlay.toml", with_port(port));
    CHECK(live.refresh());
    CHECK(port_of(live.current()) == port);
  }
  CHECK(live.generation() == 8);
  folder.replace("v2/inlay.toml", with_port(9));
  CHECK(live.refresh());
  CHECK(port_of(live.current()) == 9);
}

TEST_CASE("a file rewritten without a change of meaning changes nothing") {
  TemporaryFolder folder;
  folder.replace("inlay.toml", with_port(1));
  LivePolicy live(folder / "inlay.toml");
  CHECK(live.refresh());
  const Policy *first = live.current();
  folder.replace("inlay.toml", "# a comment\n" + with_port(1));
  CHECK_FALSE(live.refresh());
  CHECK_FALSE(live.refresh());
  CHECK(live.current() == first);
  CHECK(live.generation() == 1);
}

TEST_CASE("a policy from a snapshot follows its file and keeps what the launcher said") {
  TemporaryFolder folder;
  folder.replace("inlay.toml", with_port(1));
  auto loaded = load(folder / "inlay.toml");
  REQUIRE(loaded.has_value());
  loaded->strict = true;
  loaded->resolved = {{"redis.internal", *Address::parse("10.0.0.1")},
                      {"gone.internal", *Address::parse("10.0.0.2")}};
  auto policy = deserialize(serialize(*loaded));
  REQUIRE(policy.has_value());

  LivePolicy live(*std::move(policy), {});
  CHECK(live.generation() == 1);
  REQUIRE(live.current() != nullptr);
  CHECK(port_of(live.current()) == 1);
  folder.replace("inlay.toml", with_port(2));
  CHECK(live.refresh());
  CHECK(port_of(live.current()) == 2);
  CHECK(live.current()->strict);
  REQUIRE(live.current()->resolved.size() == 1);
  CHECK(live.current()->resolved[0].first == "redis.internal");

  // A policy without a file never changes.
  LivePolicy fixed(Policy{}, {});
  CHECK_FALSE(fixed.refresh());
  CHECK(fixed.last_error().empty());
}

TEST_CASE("T53 readers see whole policies while they are swapped") {
  TemporaryFolder folder;
  folder.replace("inlay.toml", with_port(1));
  LivePolicy live(folder / "inlay.toml");
  REQUIRE(live.refresh());
  std::atomic<bool> done{false};
  std::atomic<int> open{0};
  auto read = [&] {
    std::uint64_t generation = 0;
    while (!done.load()) {
      std::uint64_t now = live.generation();
      if (now < generation) ++open;
      generation = now;
      // Whichever version it is, it refuses inbound connections and names the rule.
      const Policy *policy = live.current();
      if (decide(*policy, InboundQuery{}).mode != Mode::deny) ++open;
      if (rule_name(*policy, false, 0) != "x") ++open;
    }
  };
  std::thread one(read), two(read);
  for (int i = 0; i < 300; ++i) {
    folder.replace("inlay.toml", i % 3 == 2 ? "broken" : with_port(2 + i));
    live.refresh();
  }
  done = true;
  one.join();
  two.join();
  CHECK(open == 0);
  CHECK(live.generation() == 201);
}

TEST_CASE("a policy handed over is in force as one from a file would be") {
  LivePolicy live("", {}, true);
  CHECK_FALSE(live.refresh());
  CHECK(live.current() == nullptr);
  CHECK(live.replace(sample::good(sample::with_defaults("plaintext", "deny"))));
  REQUIRE(live.current() != nullptr);
  CHECK(live.current()->strict);  // the launcher's word stays
  CHECK_FALSE(live.replace(sample::good(sample::with_defaults("plaintext", "deny"))));
  CHECK(live.generation() == 1);
  CHECK(live.replace(sample::good(sample::with_defaults("deny", "deny"))));
  CHECK(live.generation() == 2);
  CHECK_FALSE(live.refresh());
}

TEST_CASE("what was resolved for names is kept once, however often a policy is handed over") {
  LivePolicy live("");
  Policy policy = sample::good(sample::with_defaults("plaintext", "deny") +
                               "[[outbound]]\nname = \"redis\"\nto = [\"redis.internal\"]\nport = 6379\n"
                               "mode = \"strict\"\nexpect = [\"spiffe://example.org/redis\"]\n");
  policy.resolved = {{"redis.internal", *Address::parse("10.0.0.1")}};
  CHECK(live.replace(policy));
  CHECK_FALSE(live.replace(policy));
  CHECK(live.current()->resolved.size() == 1);
}

TEST_CASE("a relative name is the file of the moment it was given") {
  TemporaryFolder folder;
  folder.replace("inlay.toml", with_port(1));
  fs::path before = fs::current_path();
  fs::current_path(folder.path());
  LivePolicy live("inlay.toml");
  fs::current_path(before);
  CHECK(live.refresh());
}
