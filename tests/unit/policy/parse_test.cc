#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "policy/load.h"
#include "sample.h"

using namespace inlay::policy;
using namespace inlay::policy::sample;

TEST_CASE("a configuration with every key becomes the policy it says") {
  Policy policy = good(R"(trust_domain = "example.org"
[identity]
svid = "svid.pem"
key = "/run/key.pem"
bundle = "../bundle.pem"
crl = "crl.pem"
stale_crl = "accept"
[identity.bundles]
"partner.test" = "partner.pem"
[defaults]
distrusted = "keep"
inbound = "deny"
outbound = "strict"
handshake_timeout = "1500ms"
bare_fin = "eof"
[log]
file = "inlay.log"
[[inbound]]
name = "web"
port = [80, "8000-8009", "*"]
address = ["10.0.0.0/8", "::1", "::ffff:192.168.0.0/112"]
mode = "strict"
allow = ["spiffe://example.org/ns/web/**", "spiffe://partner.test/*"]
deny = "spiffe://example.org/ns/web/old"
bare_fin = "error"
[[inbound]]
name = "metrics"
port = 9090
mode = "plaintext"
[[outbound]]
name = "web"
to = ["10.0.0.0/8", "::1/128", "Redis.Internal.", "localhost"]
port = 6379
mode = "strict"
expect = ["spiffe://example.org/redis"]
caller = { module = "libhiredis.so*", frame = "app!main", executable = "/usr/bin/*" }
[[outbound]]
name = "no smtp"
port = "25-26"
mode = "deny"
)");
  CHECK(policy.trust_domain == "example.org");
  CHECK(policy.identity.svid == "/etc/inlay/svid.pem");
  CHECK(policy.identity.key == "/run/key.pem");
  CHECK(policy.identity.bundle == "/etc/inlay/../bundle.pem");
  CHECK(policy.identity.further_bundles.at("partner.test") == "/etc/inlay/partner.pem");
  CHECK(policy.identity.crl == "/etc/inlay/crl.pem");
  CHECK(policy.identity.accept_stale_crl);
  CHECK(policy.defaults.keep_distrusted);
  CHECK(policy.defaults.inbound == Mode::deny);
  CHECK(policy.defaults.outbound == Mode::strict);
  CHECK(policy.defaults.handshake_timeout_ms == 1500);
  CHECK(policy.defaults.bare_fin == BareFin::eof);
  CHECK(policy.log_file == "/etc/inlay/inlay.log");
  CHECK_FALSE(policy.strict);

  REQUIRE(policy.inbound.size() == 2);
  const InboundRule &web = policy.inbound[0];
  CHECK(web.name == "web");
  CHECK(web.ports == std::vector<PortRange>{{80, 80}, {8000, 8009}, {0, 65535}});
  REQUIRE(web.addresses.size() == 3);
  CHECK(web.addresses[0].text() == "10.0.0.0/8");
  CHECK(web.addresses[1].text() == "::1");
  CHECK(web.addresses[2].text() == "192.168.0.0/16");
  CHECK(web.mode == Mode::strict);
  CHECK(web.bare_fin == BareFin::error);
  REQUIRE(web.allow.size() == 2);
  CHECK(web.allow[1].text() == "spiffe://partner.test/*");
  REQUIRE(web.deny.size() == 1);
  CHECK(policy.inbound[1].mode == Mode::plaintext);
  CHECK(policy.inbound[1].bare_fin == BareFin::eof);

  REQUIRE(policy.outbound.size() == 2);
  const OutboundRule &redis = policy.outbound[0];
  CHECK(redis.names == std::vector<std::string>{"redis.internal", "localhost"});
  REQUIRE(redis.networks.size() == 4);
  CHECK(redis.networks[2].text() == "127.0.0.1");
  CHECK(redis.networks[3].text() == "::1");
  CHECK(redis.caller.module == "libhiredis.so*");
  CHECK(redis.caller.frame == "app!main");
  CHECK(redis.caller.executable == "/usr/bin/*");
  CHECK(policy.outbound[1].mode == Mode::deny);
  CHECK(policy.outbound[1].networks.empty());
  CHECK(policy.outbound[1].names.empty());
  CHECK(policy.outbound[1].caller.empty());
}

TEST_CASE("an identity may come from an agent, with the bundles of whatever trust domains it has") {
  Policy policy = good(R"(trust_domain = "example.org"
[identity]
agent = "unix:///run/inlay/agent.sock"
[defaults]
inbound = "deny"
outbound = "deny"
[[inbound]]
name = "web"
port = 80
mode = "strict"
allow = ["spiffe://partner.test/*"]
)");
  CHECK(policy.identity.agent == "/run/inlay/agent.sock");
  CHECK(policy.identity.svid.empty());
}

TEST_CASE("what is not written has its documented value") {
  Policy policy = good(with_defaults("deny", "deny"));
  CHECK(policy.defaults.handshake_timeout_ms == 5000);
  CHECK(policy.defaults.bare_fin == BareFin::error);
  CHECK(policy.log_file.empty());
  CHECK_FALSE(policy.needs_names());
  CHECK_FALSE(policy.needs_module());
  CHECK_FALSE(policy.needs_frames());
}

namespace {

struct Bad {
  const char *text;
  unsigned line;
  unsigned column;
  const char *message;  // a part of it
};

void refused(const std::string &before, const Bad &bad) {
  // Lines are counted from the first of bad.text.
  auto lines = static_cast<unsigned>(std::count(before.begin(), before.end(), '\n'));
  std::string text = bad.text;
  CAPTURE(text);
  auto policy = parse(before + bad.text, "/etc/inlay", "inlay.toml");
  REQUIRE_FALSE(policy.has_value());
  const LoadError &error = policy.error();
  CAPTURE(error.message);
  CHECK(error.line == lines + bad.line);
  CHECK(error.column == bad.column);
  CHECK(error.message.find(bad.message) != std::string::npos);
  CHECK(error.message.find('\n') == std::string::npos);
  CHECK(error.file == "inlay.toml");
}

}  // namespace

TEST_CASE("T51 one thing wrong outside the rules refuses the whole file, with line and column") {
  const Bad cases[] = {
      {"", 1, 1, "the file has no trust_domain: write trust_domain = \"example.org\""},
      {"trust_domain = \"x.y\"", 1, 1, "the file has no identity"},
      {"trust_domain = ", 1, 16, "not TOML"},
      {"[!a]", 1, 2, "expected bare key"},
      {"[ /x]", 1, 3, "expected bare key"},
      {"a = t\n", 1, 6, "saw 't\\x0a'"},
      {"\"\\u001b[2J\" = 1\n", 1, 1, "unknown key \"\\x1b[2J\""},
      {"\xc3\xa9 = 1", 1, 1, "not TOML"},
      {"trust_domain = 5\n[identity]\n", 1, 16, "trust_domain must be a string"},
      {"trust_domain = \"Example.org\"\n", 1, 16, "is no trust domain"},
      {"trust_domain = \"spiffe://a\"\n", 1, 16, "without spiffe://"},
      {"trust_domain = \"\"\n", 1, 16, "is no trust domain"},
      {"trust_domain = \"a\"\ntrust_domain = \"b\"\n", 2, 16, "not TOML"},
      {"trustdomain = \"a\"\n", 1, 1, "unknown key \"trustdomain\" in the file"},
      {"trust_domain = \"a\"\n[extra]\n", 2, 2, "unknown key \"extra\""},
      {"trust_domain = \"a\"\nidentity = \"x\"\n", 2, 12, "identity must be a table"},
      {"trust_domain = \"a\"\n[identity]\nsvid = \"s\"\nkey = \"k\"\n", 2, 1, "has no bundle"},
      {"trust_domain = \"a\"\n[identity]\nagent = \"/run/a\"\n", 3, 9,
       "an agent is named by its Unix socket"},
      {"trust_domain = \"a\"\n[identity]\nagent = \"unix:///run/a\"\nsvid = \"s\"\n", 4, 1,
       "unknown key \"svid\" in an [identity] with an agent"},
      {"trust_domain = \"a\"\n[identity]\nworkload_api = \"unix:///run/a\"\n", 3, 1,
       "not in this version"},
      {"trust_domain = \"a\"\n[identity]\nsvid = \"\"\nkey = \"k\"\nbundle = \"b\"\n", 3, 8,
       "a path must not be empty"},
      {"trust_domain = \"a\"\n[identity]\nsvid = 1\nkey = \"k\"\nbundle = \"b\"\n", 3, 8,
       "svid must be a string"},
      {"trust_domain = \"a\"\n[identity]\nsvid = \"s\"\nkey = \"k\"\nbundle = \"b\"\nbundles = { a "
       "= "
       "\"x\" }\n",
       6, 13, "own trust domain"},
      {"trust_domain = \"a\"\n[identity]\nsvid = \"s\"\nkey = \"k\"\nbundle = \"b\"\nbundles = { B "
       "= "
       "\"x\" }\n",
       6, 13, "is no trust domain"},
      {"trust_domain = \"a\"\n[identity]\nsvid = \"s\"\nkey = \"k\"\nbundle = \"b\"\nbundles = { b "
       "= "
       "1 }\n",
       6, 17, "b must be a string"},
      {"a = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n", 1,
       21, "not TOML"},
  };
  for (const Bad &bad : cases) refused("", bad);
  auto policy = parse(kHead, "/etc/inlay", "inlay.toml");
  REQUIRE_FALSE(policy.has_value());
  CHECK(policy.error().text() ==
        "inlay.toml:1:1: the file has no defaults: write [defaults] with inbound and outbound");
}

TEST_CASE("T51 the defaults must be written and known") {
  const Bad cases[] = {
      {"[defaults]\ninbound = \"deny\"\n", 1, 1, "[defaults] has no outbound"},
      {"[defaults]\noutbound = \"deny\"\n", 1, 1, "[defaults] has no inbound"},
      {"[defaults]\ninbound = \"open\"\noutbound = \"deny\"\n", 2, 11, "unknown mode \"open\""},
      {"[defaults]\ninbound = \"permissive\"\noutbound = \"deny\"\n", 2, 11,
       "\"permissive\" is not in this version"},
      {"[defaults]\ninbound = \"Strict\"\noutbound = \"deny\"\n", 2, 11, "unknown mode \"Strict\""},
      {"[defaults]\ninbound = true\noutbound = \"deny\"\n", 2, 11, "inbound must be a string"},
      {"[[defaults]]\ninbound = \"deny\"\noutbound = \"deny\"\n", 1, 1, "defaults must be a table"},
  };
  for (const Bad &bad : cases) refused(kHead, bad);
  const Bad further[] = {
      {"handshake_timeout = 5\n", 1, 21, "handshake_timeout must be a string"},
      {"handshake_timeout = \"5\"\n", 1, 21, "is no duration"},
      {"handshake_timeout = \"5 s\"\n", 1, 21, "is no duration"},
      {"handshake_timeout = \"-5s\"\n", 1, 21, "is no duration"},
      {"handshake_timeout = \"1.5s\"\n", 1, 21, "is no duration"},
      {"handshake_timeout = \"s\"\n", 1, 21, "is no duration"},
      {"handshake_timeout = \"1h\"\n", 1, 21, "is no duration"},
      {"handshake_timeout = \"99ms\"\n", 1, 21, "out of range"},
      {"handshake_timeout = \"0s\"\n", 1, 21, "out of range"},
      {"handshake_timeout = \"11m\"\n", 1, 21, "out of range"},
      {"handshake_timeout = \"4294967295m\"\n", 1, 21, "out of range"},
      {"handshake_timeout = \"4294967296ms\"\n", 1, 21, "is no duration"},
      {"bare_fin = \"ignore\"\n", 1, 12, "unknown bare_fin"},
      {"timeout = \"5s\"\n", 1, 1, "unknown key \"timeout\" in [defaults]"},
      {"[log]\n", 1, 1, "[log] has no file"},
      {"[log]\nfile = \"\"\n", 2, 8, "a path must not be empty"},
      {"[log]\nfile = \"a\\u0000b\"\n", 2, 8, "control characters"},
      {"[log]\nfile = \"a\"\nlevel = \"debug\"\n", 3, 1, "unknown key \"level\" in [log]"},
      {"[inbound]\nname = \"x\"\n", 1, 1, "write [[inbound]]"},
      {"[[outbund]]\nname = \"x\"\n", 1, 3, "unknown key \"outbund\""},
  };
  for (const Bad &bad : further) refused(with_defaults("deny", "deny"), bad);
}

TEST_CASE("timeouts from 100 ms to 10 minutes") {
  struct Case {
    const char *text;
    std::uint32_t milliseconds;
  };
  for (const Case &c : {Case{"100ms", 100}, {"5s", 5000}, {"10m", 600000}, {"600s", 600000}}) {
    CAPTURE(c.text);
    Policy policy =
        good(with_defaults("deny", "deny") + "handshake_timeout = \"" + c.text + "\"\n");
    CHECK(policy.defaults.handshake_timeout_ms == c.milliseconds);
  }
}

TEST_CASE("T51 one thing wrong in an inbound rule refuses the whole file") {
  const Bad cases[] = {
      {"port = 80\nmode = \"deny\"\n", 1, 1, "[[inbound]] has no name"},
      {"name = \"x\"\nmode = \"deny\"\n", 1, 1, "[[inbound]] has no port"},
      {"name = \"x\"\nport = 80\n", 1, 1, "[[inbound]] has no mode"},
      {"name = \"\"\nport = 80\nmode = \"deny\"\n", 2, 8, "a rule's name"},
      {"name = \"a\\nb\"\nport = 80\nmode = \"deny\"\n", 2, 8, "a rule's name"},
      {"name = \"x\"\nport = 0\nmode = \"deny\"\n", 3, 8, "0 is no port"},
      {"name = \"x\"\nport = 65536\nmode = \"deny\"\n", 3, 8, "65536 is no port"},
      {"name = \"x\"\nport = -1\nmode = \"deny\"\n", 3, 8, "-1 is no port"},
      {"name = \"x\"\nport = 80.0\nmode = \"deny\"\n", 3, 8, "port must be a number"},
      {"name = \"x\"\nport = \"80\"\nmode = \"deny\"\n", 3, 8, "without quotes"},
      {"name = \"x\"\nport = \"http\"\nmode = \"deny\"\n", 3, 8, "is no port"},
      {"name = \"x\"\nport = \"0-80\"\nmode = \"deny\"\n", 3, 8, "no range of ports"},
      {"name = \"x\"\nport = \"90-80\"\nmode = \"deny\"\n", 3, 8, "no range of ports"},
      {"name = \"x\"\nport = \"80-65536\"\nmode = \"deny\"\n", 3, 8, "no range of ports"},
      {"name = \"x\"\nport = \"80-90-99\"\nmode = \"deny\"\n", 3, 8, "is no port"},
      {"name = \"x\"\nport = \"80-\"\nmode = \"deny\"\n", 3, 8, "is no port"},
      {"name = \"x\"\nport = []\nmode = \"deny\"\n", 3, 8, "matches nothing"},
      {"name = \"x\"\nport = [80, 0]\nmode = \"deny\"\n", 3, 13, "0 is no port"},
      {"name = \"x\"\nport = [[80]]\nmode = \"deny\"\n", 3, 9, "port must be a number"},
      {"name = \"x\"\nport = 80\nmode = \"permissive\"\n", 4, 8, "not in this version"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\nfirst = \"client\"\n", 5, 1,
       "\"first\" in [[inbound]] is not in this version"},
      {"name = \"x\"\nport = 80\nmode = \"allow\"\n", 4, 8, "unknown mode"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"10.0.0.0/33\"\n", 5, 11,
       "is no network"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"10.0.0.1/8\"\n", 5, 11,
       "is no network"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"10.0.0\"\n", 5, 11, "is no address"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"eth0\"\n", 5, 11, "is no address"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"fe80::1%eth0\"\n", 5, 11,
       "names an interface"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"0.0.0.0\"\n", 5, 11,
       "write \"0.0.0.0/0\""},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"::\"\n", 5, 11, "write \"::/0\""},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = \"::ffff:0.0.0.0\"\n", 5, 11,
       "write \"0.0.0.0/0\""},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = []\n", 5, 11, "matches nothing"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\naddress = [1]\n", 5, 12, "must be a string"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\nallow = []\n", 5, 9, "allow has no meaning"},
      {"name = \"x\"\nport = 80\nmode = \"plaintext\"\ndeny = []\n", 5, 8, "deny has no meaning"},
      {"name = \"x\"\nport = 80\nmode = \"plaintext\"\nbare_fin = \"eof\"\n", 5, 12,
       "bare_fin has no meaning"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\n", 1, 1,
       "has no allow: write allow = [\"spiffe://example.org/**\"]"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\ndeny = []\n", 1, 1, "has no allow"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = 5\n", 5, 9,
       "must be a string or a list"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"web\"]\n", 5, 10,
       "must begin with spiffe://"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"SPIFFE://example.org/a\"]\n", 5, 10,
       "must begin with spiffe://"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://*/a\"]\n", 5, 10,
       "without *"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://example.org\"]\n", 5, 10,
       "not a workload"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://example.org/\"]\n", 5, 10,
       "is no SPIFFE ID"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://example.org/a//b\"]\n", 5,
       10, "is no SPIFFE ID"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://example.org/a/../b\"]\n", 5,
       10, "is no SPIFFE ID"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://example.org/a?b\"]\n", 5,
       10, "is no SPIFFE ID"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://example.org/[ab]\"]\n", 5,
       10, "is no SPIFFE ID"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://example.org/***\"]\n", 5,
       10, "write * or **"},
      {"name = \"x\"\nport = 80\nmode = \"strict\"\nallow = [\"spiffe://exmaple.org/a\"]\n", 5, 10,
       "no bundle for the trust domain"},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\n[[inbound]]\nname = \"x\"\nport = 81\nmode = "
       "\"deny\"\n",
       6, 8, "a second rule named \"x\""},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\nto = \"10.0.0.1\"\n", 5, 1, "unknown key \"to\""},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\nzz = 1\nalow = 1\n", 5, 1, "unknown key \"zz\""},
      {"name = \"x\"\nport = 80\nmode = \"deny\"\ncaller = { module = \"x\" }\n", 5, 1,
       "unknown key \"caller\""},
  };
  for (Bad bad : cases) {
    std::string text = std::string("[[inbound]]\n") + bad.text;
    bad.text = text.c_str();
    refused(with_defaults("deny", "deny"), bad);
  }
}

TEST_CASE("T51 one thing wrong in an outbound rule refuses the whole file") {
  const Bad cases[] = {
      {"mode = \"strict\"\n", 1, 1, "a strict [[outbound]] has no expect: write expect = ["},
      {"mode = \"strict\"\nallow = [\"spiffe://example.org/a\"]\n", 5, 1, "unknown key \"allow\""},
      {"mode = \"strict\"\nexpect = [\"redis\"]\n", 5, 11, "is no SPIFFE ID"},
      {"mode = \"plaintext\"\nexpect = []\n", 5, 10, "expect has no meaning"},
      {"mode = \"deny\"\nexpect = []\n", 5, 10, "expect has no meaning"},
      {"mode = \"deny\"\nto = []\n", 5, 6, "matches nothing"},
      {"mode = \"deny\"\nto = [\"10.0.0.0/8\", 5]\n", 5, 21, "every entry of to"},
      {"mode = \"deny\"\nto = [\"10.0.0.0/8\", \"10.0.0.0/40\"]\n", 5, 21, "is no network"},
      {"mode = \"deny\"\nto = \"127.1\"\n", 5, 6, "is no address"},
      {"mode = \"deny\"\nto = \"010.0.0.1\"\n", 5, 6, "is no address"},
      {"mode = \"deny\"\nto = \"2130706433\"\n", 5, 6, "is no address"},
      {"mode = \"deny\"\nto = \"0x7f000001\"\n", 5, 6, "is no address"},
      {"mode = \"deny\"\nto = \"0.0.0.0\"\n", 5, 6, "write \"0.0.0.0/0\""},
      {"mode = \"deny\"\nto = \"[::1]\"\n", 5, 6, "is no address"},
      {"mode = \"deny\"\nto = \"10.0.0.1:80\"\n", 5, 6, "is no address"},
      {"mode = \"deny\"\nto = \"fe80::1%lo\"\n", 5, 6, "names an interface"},
      {"mode = \"deny\"\nto = \"*.internal\"\n", 5, 6, "there are no wildcards"},
      {"mode = \"deny\"\nto = \"a..b\"\n", 5, 6, "is no "},
      {"mode = \"deny\"\nto = \"\"\n", 5, 6, "is no "},
      {"mode = \"deny\"\nto = \"h\\u00e9\"\n", 5, 6, "is no host name"},
      {"mode = \"plaintext\"\nto = \"redis.internal\"\n", 5, 6, "must be strict or deny"},
      {"mode = \"plaintext\"\nto = [\"10.0.0.1\", \"localhost\"]\n", 5, 19,
       "must be strict or deny"},
      {"mode = \"deny\"\ncaller = \"libx.so\"\n", 5, 10, "caller must be a table"},
      {"mode = \"deny\"\ncaller = {}\n", 5, 10, "an empty caller"},
      {"mode = \"deny\"\ncaller = { module = \"\" }\n", 5, 21, "module has 1 to"},
      {"mode = \"deny\"\ncaller = { modul = \"x\" }\n", 5, 12, "unknown key \"modul\" in caller"},
      {"mode = \"deny\"\ncaller = { frame = \"main\" }\n", 5, 20, "write OBJECT!FUNCTION"},
      {"mode = \"deny\"\ncaller = { frame = \"!main\" }\n", 5, 20, "write OBJECT!FUNCTION"},
      {"mode = \"deny\"\ncaller = { executable = 5 }\n", 5, 25, "executable must be a string"},
      {"mode = \"deny\"\naddress = \"10.0.0.1\"\n", 5, 1, "unknown key \"address\""},
  };
  for (Bad bad : cases) {
    std::string text = std::string("[[outbound]]\nname = \"x\"\nport = 80\n") + bad.text;
    bad.text = text.c_str();
    refused(with_defaults("deny", "deny"), bad);
  }
}

TEST_CASE("a deny list may name a trust domain without a bundle") {
  Policy policy = good(with_defaults("deny", "deny") + R"([[inbound]]
name = "x"
port = 80
mode = "strict"
allow = []
deny = ["spiffe://gone.test/**"]
)");
  CHECK(policy.inbound[0].deny.size() == 1);
}

TEST_CASE("the same name may be used once in each direction") {
  Policy policy = good(with_defaults("deny", "deny") + R"(
[[inbound]]
name = "redis"
port = 6379
mode = "deny"
[[outbound]]
name = "redis"
port = 6379
mode = "deny"
)");
  CHECK(policy.inbound.size() == 1);
  CHECK(policy.outbound.size() == 1);
}

TEST_CASE("no prefix of a good configuration crashes the reader") {
  const std::string whole = with_defaults("deny", "strict") + R"(
[[inbound]]
name = "web"
port = [80, "8000-8009"]
address = ["10.0.0.0/8"]
mode = "strict"
allow = ["spiffe://example.org/ns/web/**"]
[[outbound]]
name = "web"
to = ["10.0.0.0/8", "redis.internal"]
port = 6379
mode = "strict"
expect = ["spiffe://example.org/redis"]
caller = { module = "libhiredis.so*" }
)";
  good(whole);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    auto policy = parse(whole.substr(0, length), "/", "x");
    if (!policy) CHECK_FALSE(policy.error().message.empty());
  }
}
