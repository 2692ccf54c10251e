#include "identity/ca/config.h"

#include <doctest/doctest.h>

#include "tests/unit/tools/temporary_folder.h"

using namespace inlay::identity::ca;

namespace {

Config good(const std::string &text) {
  auto config = parse_config(text, "/etc/inlay", "ca.toml");
  REQUIRE_MESSAGE(config, (config ? "" : config.error().text()));
  return std::move(*config);
}

std::string complaint(const std::string &text) {
  const auto config = parse_config(text, "/etc/inlay", "ca.toml");
  return config ? "" : config.error().text();
}

constexpr const char *kDomain = "trust_domain = \"example.org\"\n";

}  // namespace

TEST_CASE("a trust domain is all that must be written") {
  const Config config = good(kDomain);
  CHECK(config.listen == std::vector<std::string>{"0.0.0.0:8443"});
  CHECK(config.seal == "/var/lib/inlay-ca/seal.key");
  CHECK(config.database.empty());
  CHECK(config.rotation.trust_domain == "example.org");
  CHECK_FALSE(config.rotation.upstream);
}

TEST_CASE("every key is read") {
  const Config config = good(std::string(kDomain) + R"(
    listen = ["192.0.2.1:1", "[::]:2"]
    advertise = "https://ca.example.org:8443"
    state = "state"
    database = "postgresql://ca@db/inlay"
    seal = "/run/seal"
    svid = { ttl = "30m", node_ttl = "12h", jwt_ttl = "2m" }
    rotation = { root_ttl = "3650d", intermediate_ttl = "30d", jwt_ttl = "30d", overlap = "1h" }
    upstream = { certificate = "a.pem", key = "b.pem", bundle = "c.pem" }
    limits = { enrolments_per_second = 5, requests_per_second = 6, connections = 7, connections_of_an_address = 8 }
    log = { file = "ca.jsonl" })");
  CHECK(config.listen.size() == 2);
  CHECK(config.advertise == "https://ca.example.org:8443");
  CHECK(config.state == "/etc/inlay/state");
  CHECK(config.database == "postgresql://ca@db/inlay");
  CHECK(config.seal == "/run/seal");
  CHECK(config.svid_lifetime == 1800);
  CHECK(config.node_lifetime == 43200);
  CHECK(config.jwt_lifetime == 120);
  CHECK(config.rotation.root_lifetime == 3650 * 86400);
  CHECK(config.rotation.intermediate_lifetime == 30 * 86400);
  CHECK(config.rotation.overlap == 3600);
  CHECK(config.rotation.upstream);
  CHECK(config.upstream.bundle == "/etc/inlay/c.pem");
  CHECK(config.enrolments_per_second == 5);
  CHECK(config.requests_per_second == 6);
  CHECK(config.connections == 7);
  CHECK(config.connections_of_an_address == 8);
  CHECK(config.log_file == "/etc/inlay/ca.jsonl");
}

TEST_CASE("what is wrong is named with its place and what to write") {
  const std::string domain = kDomain;
  CHECK(complaint("").find("trust_domain = \"example.org\"") != std::string::npos);
  CHECK(complaint(domain + "listne = \"x\"").find("ca.toml:2:1: unknown key \"listne\"") == 0);
  for (const char *line :
       {"listen = []", "listen = \"8443\"", "listen = \"0.0.0.0:99999\"", "listen = \":1\"",
        "advertise = \"http://ca:1\"", "advertise = \"https://ca:1/x\"", "database = \"mysql://x\"",
        "svid = { ttl = \"5s\" }", "svid = { ttl = \"9999999999999d\" }", "svid = { ttl = \"1y\" }",
        "rotation = { jwt_ttl = \"7d\", overlap = \"3d\" }", "upstream = { key = \"x\" }",
        "limits = { requests_per_second = 0 }", "limits = { connections = \"4\" }",
        "limits = { requests = 1 }", "log = {}"}) {
    INFO(line);
    CHECK(complaint(domain + line).find("ca.toml:2:") == 0);
  }
}

TEST_CASE("a state is made once, and its seal is asked for ever after") {
  const TemporaryFolder folder;
  Config config = good(kDomain);
  config.state = folder.path() + "/state";
  config.seal = config.state + "/seal.key";
  {
    auto opened = open_state(config);
    REQUIRE_MESSAGE(opened, (opened ? "" : opened.error()));
    CHECK(opened->store.change_authorities([&](AuthorityRows &rows) {
      return maintain(rows, opened->seal, config.rotation, 1'800'000'000);
    }));
  }
  REQUIRE(open_state(config));
  std::filesystem::remove(config.seal);
  const auto opened = open_state(config);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().find("it belongs to the database") != std::string::npos);
}
