#include "identity/agent/config.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "policy/snapshot.h"
#include "tests/unit/policy/temporary_folder.h"

using namespace inlay;
using namespace inlay::identity::agent;
using inlay::policy::sample::TemporaryFolder;

namespace {

const std::string kHead = R"(trust_domain = "example.org"
[source]
authority = "authority"
)";

std::string with_entry(const std::string &lines) {
  return kHead + "[[entry]]\nid = \"spiffe://example.org/redis\"\n" + lines + "\n";
}

tl::expected<Config, policy::LoadError> parse(const std::string &toml) {
  return parse_config(toml, "/etc/inlay", "agent.toml", "/run/inlay/agent.sock");
}

const std::string kPolicy = R"(trust_domain = "example.org"
[identity]
agent = "unix:///run/inlay/agent.sock"
[defaults]
inbound = "deny"
outbound = "deny"
)";

}  // namespace

TEST_CASE("a whole configuration") {
  auto config = parse(R"(trust_domain = "example.org"
socket = "/run/other/agent.sock"
[source]
authority = "authority"
[svid]
ttl = "30m"
[metrics]
listen = "127.0.0.1:9464"
[log]
file = "audit.jsonl"
[[entry]]
id = "spiffe://example.org/redis"
policy = "redis.toml"
user = "root"
gid = 12
groups = ["root", 13]
executable = "/usr/bin/redis-server"
sha256 = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"
unit = "redis*.service"
cgroup = "/system.slice/**"
refuse_traced = true
workload_api = false
hint = "internal"
[[entry]]
id = "spiffe://example.org/web"
uid = 1000
)");
  REQUIRE_MESSAGE(config.has_value(), config.error().text());
  CHECK(config->socket == "/run/other/agent.sock");
  CHECK(config->source.authority == "/etc/inlay/authority");
  CHECK(config->svid_lifetime == 1800);
  CHECK(config->metrics == "127.0.0.1:9464");
  CHECK(config->log_file == "/etc/inlay/audit.jsonl");
  REQUIRE(config->entries.size() == 2);
  const Entry &redis = config->entries[0];
  CHECK(redis.number == 1);
  CHECK(redis.id.uri() == "spiffe://example.org/redis");
  CHECK(redis.policy_file == "/etc/inlay/redis.toml");
  CHECK(redis.selectors.user == 0);
  CHECK(redis.selectors.group == 12);
  CHECK(redis.selectors.groups == std::vector<gid_t>{0, 13});
  CHECK(redis.selectors.sha256.starts_with("e3b0c442"));
  CHECK(redis.refuse_traced);
  CHECK_FALSE(redis.workload_api);
  CHECK(redis.hint == "internal");
  CHECK(config->entries[1].selectors.user == 1000);
  CHECK(config->ids().size() == 2);
}

TEST_CASE("the other sources") {
  auto upstream = parse(
      "trust_domain = \"example.org\"\n[source]\nworkload_api = "
      "\"unix:///run/spire/agent.sock\"\n");
  REQUIRE(upstream.has_value());
  CHECK(upstream->source.workload_api == "unix:///run/spire/agent.sock");
  CHECK(upstream->socket == "/run/inlay/agent.sock");
  auto files = parse(R"(trust_domain = "example.org"
[source]
crl = "crl.pem"
[source.bundles]
"partner.test" = "partner.pem"
[[source.svid]]
svid = "svid.pem"
key = "key.pem"
bundle = "bundle.pem"
)");
  REQUIRE_MESSAGE(files.has_value(), files.error().text());
  REQUIRE(files->source.files.svids.size() == 1);
  CHECK(files->source.files.svids[0].key == "/etc/inlay/key.pem");
  CHECK(files->source.files.bundles.at("partner.test") == "/etc/inlay/partner.pem");
  CHECK(files->source.files.crls == std::vector<std::string>{"/etc/inlay/crl.pem"});
}

TEST_CASE("an EST server is asked with a password first, or with a certificate that others renew") {
  const std::string head = "trust_domain = \"example.org\"\n[source]\n";
  const std::string est = head + "est = \"https://est.example.org/.well-known/est/device/\"\n";
  const std::string password =
      "est_user = \"dev-1\"\nest_password_file = \"password\"\nstate = \"/var/lib/inlay/est\"\n";
  const std::string certificate = "est_certificate = \"c.pem\"\nest_key = \"k.pem\"\n";
  const auto first = parse(est + "est_ca = \"ca.pem\"\n" + password);
  REQUIRE_MESSAGE(first.has_value(), first.error().text());
  CHECK(first->source.est.url == "https://est.example.org/.well-known/est/device");
  CHECK(first->source.est.trust_domain == "example.org");
  CHECK(first->source.est.anchors == "/etc/inlay/ca.pem");
  CHECK(first->source.est.password_file == "/etc/inlay/password");
  CHECK(first->source.est.folder == "/var/lib/inlay/est");
  CHECK(parse(est + certificate)->source.est.key == "/etc/inlay/k.pem");
  for (const std::string &bad :
       {est, est + password + certificate, est + "est_user = \"a\"\n",
        est + "est_certificate = \"c.pem\"\n",
        est + "est_user = \"a:b\"\nest_password_file = \"p\"\nstate = \"s\"\n",
        head + "est = \"http://est.example.org/\"\n" + certificate,
        head + "est = \"https://u@est.example.org/\"\n" + certificate,
        head + "est = \"https:///x\"\n" + certificate,
        head + "est = \"https://est.example.org/?x\"\n" + certificate, kHead + "est_ca = \"x\"\n",
        kHead + "state = \"x\"\n", est + certificate + "enrolled = \"x\"\n"}) {
    CHECK_MESSAGE(!parse(bad), bad);
  }
}

TEST_CASE("anything unknown or wrong refuses the whole file, with its line") {
  struct Row {
    std::string toml;
    std::uint32_t line;
    const char *says;
  } rows[] = {
      {"", 0, "no trust_domain"},
      {"trust_domain = \"Example.org\"\n", 1, ""},
      {"trust_domain = \"example.org\"\n", 0, "no source"},
      {"trust_domain = \"example.org\"\n[source]\n", 2, "exactly one of"},
      {kHead + "workload_api = \"unix:///a\"\n", 2, "exactly one of"},
      {"trust_domain = \"example.org\"\n[source]\nworkload_api = \"tcp://1.2.3.4:80\"\n", 3, ""},
      {kHead + "crl = \"crl.pem\"\n", 4, "belongs to [[source.svid]]"},
      {kHead + "[svid]\nttl = \"10s\"\n", 5, "from 1m to 7d"},
      {kHead + "[svid]\nttl = \"8d\"\n", 5, "from 1m to 7d"},
      {kHead + "[svid]\nttl = \"1\"\n", 5, "from 1m to 7d"},
      {kHead + "[svid]\nttl = \"99999999999999999999d\"\n", 5, "from 1m to 7d"},
      {kHead + "[limits]\nsignatures_per_second = 0\n", 5, "from 1 to 1000000"},
      {kHead + "[log]\nfiel = \"x\"\n", 5, "unknown key \"fiel\""},
      {with_entry(""), 4, "without selectors"},
      {with_entry("user = \"no-such-user-here\""), 6, "there is no user"},
      {with_entry("user = 1\nuid = 1"), 7, "says again"},
      {with_entry("uid = -1"), 6, "no user or group"},
      {with_entry("uid = 4294967295"), 6, "no user or group"},
      {with_entry("uid = 1.5"), 6, "a name in quotes or a number"},
      {with_entry("groups = []"), 6, "must be a list"},
      {with_entry("executable = \"redis-server\""), 6, "full path"},
      {with_entry("executable = \"/usr/bin/*\""), 6, "no pattern"},
      {with_entry("sha256 = \"abc\""), 6, "64 hexadecimal digits"},
      {with_entry("unit = \"\""), 6, "a name or a pattern"},
      {with_entry("unit = \"***\""), 6, "a name or a pattern"},
      {with_entry("uid = 1\nrefuse_traced = 1"), 7, "true or false"},
      {with_entry("uid = 1\nselectors = 1"), 7, "unknown key"},
      {kHead + "[[entry]]\nuid = 1\n", 4, "no id"},
      {kHead + "[[entry]]\nid = \"spiffe://other.org/a\"\nuid = 1\n", 5, "no workload of"},
      {kHead + "[[entry]]\nid = \"spiffe://example.org\"\nuid = 1\n", 5, "no workload of"},
      {kHead + "[[entry]]\nid = \"spiffe://example.org/a/../b\"\nuid = 1\n", 5, "no SPIFFE ID"},
      {"trust_domain = \"example.org\"\nsocket = \"/" + std::string(120, 'a') +
           "\"\n[source]\nauthority = \"a\"\n",
       2, "longer than"},
      {"[!a]", 1, "not TOML"},
  };
  for (const Row &row : rows) {
    INFO(row.toml);
    auto config = parse(row.toml);
    REQUIRE_FALSE(config.has_value());
    INFO(config.error().text());
    if (row.line != 0) CHECK(config.error().line == row.line);
    CHECK(config.error().message.find(row.says) != std::string::npos);
  }
}

TEST_CASE("entries that a process could match both of are an error where they can be seen to be") {
  auto second = [](const std::string &id, const std::string &lines) {
    return with_entry("uid = 1000") + "[[entry]]\nid = \"spiffe://example.org/" + id + "\"\n" +
           lines + "\n";
  };
  auto config = parse(second("web", "uid = 1000\nexecutable = \"/usr/bin/web\""));
  REQUIRE_FALSE(config.has_value());
  CHECK(config.error().message.find("entry 1 (spiffe://example.org/redis)") != std::string::npos);
  CHECK(config.error().line == 7);
  CHECK(parse(second("redis", "uid = 1000\nexecutable = \"/usr/bin/web\"")).has_value());
  CHECK_FALSE(parse(second("redis", "uid = 1000\nworkload_api = false")).has_value());
  CHECK_FALSE(parse(second("redis", "uid = 1000\nrefuse_traced = true")).has_value());
  CHECK(parse(second("web", "uid = 1001")).has_value());
  CHECK(parse(second("web", "executable = \"/usr/bin/web\"")).has_value());
}

TEST_CASE("loading takes the policies along, and only from files nobody else can change") {
  TemporaryFolder folder;
  std::string file = folder.write("agent.toml", with_entry("uid = 1000\npolicy = \"redis.toml\""));

  SUBCASE("good") {
    folder.write("redis.toml", kPolicy);
    auto config = load_config(file);
    REQUIRE_MESSAGE(config.has_value(), config.error().text());
    CHECK(config->file == file);
    REQUIRE(config->entries[0].policy);
    auto policy = policy::deserialize(*config->entries[0].policy);
    REQUIRE(policy.has_value());
    CHECK(policy->trust_domain == "example.org");
  }
  SUBCASE("no policy") {
    auto config = load_config(file);
    REQUIRE_FALSE(config.has_value());
    CHECK(config.error().file == folder / "redis.toml");
  }
  SUBCASE("a policy of another trust domain") {
    std::string other = kPolicy;
    other.replace(other.find("example.org"), 11, "another.org");
    folder.write("redis.toml", other);
    CHECK(load_config(file).error().message.find("trust domain") != std::string::npos);
  }
  SUBCASE("a bad policy") {
    folder.write("redis.toml", kPolicy + "[log]\nfiel = \"a\"\n");
    CHECK(load_config(file).error().line > 0);
  }
  SUBCASE("a configuration everyone may change") {
    folder.write("redis.toml", kPolicy);
    ::chmod(file.c_str(), 0666);
    CHECK(load_config(file).error().message.find("may be written by everyone") !=
          std::string::npos);
  }
}

TEST_CASE("an executable is the file its path leads to") {
  TemporaryFolder folder;
  std::filesystem::copy_file("/usr/bin/sleep", folder / "real");
  std::filesystem::create_symlink(folder / "real", folder / "link");
  std::string file =
      folder.write("agent.toml", with_entry("executable = \"" + (folder / "link") + "\""));
  auto config = load_config(file);
  REQUIRE(config.has_value());
  CHECK(config->entries[0].selectors.executable == folder / "real");
  CHECK(config->entries[0].selectors.text() ==
        "executable " + (folder / "link") + " -> " + (folder / "real"));
}
