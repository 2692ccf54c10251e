#include <doctest/doctest.h>

#include "identity/ca/config.h"

using namespace inlay::identity::ca;

namespace {

constexpr const char *kDomain = "trust_domain = \"example.org\"\n";

tl::expected<Config, inlay::policy::LoadError> parsed(const std::string &text) {
  return parse_config(kDomain + text, "/etc/inlay", "ca.toml");
}

std::string federation(const std::string &more) {
  return "[[federation]]\ntrust_domain = \"b.test\"\nurl = \"https://b.test/x\"\n" + more;
}

}  // namespace

TEST_CASE("a bundle endpoint and federations are read") {
  const auto config = parsed(R"(
    [bundle_endpoint]
    listen = ["192.0.2.1:1", "[::]:2"]
    profile = "https_web"
    certificate = "web.pem"
    key = "/run/web-key.pem"
    path = "/bundle.json"
    [[federation]]
    trust_domain = "b.test"
    url = "https://b.test:8444/bundle?x=1"
    profile = "https_web"
    ca_file = "ca.pem"
    [[federation]]
    trust_domain = "c.test"
    url = "https://[2001:db8::1]/"
    profile = "https_spiffe"
    endpoint_spiffe_id = "spiffe://d.test/bundles"
    bundle = "c.json")");
  REQUIRE_MESSAGE(config, config.error().text());
  CHECK(config->bundle_endpoint.listen.size() == 2);
  CHECK(config->bundle_endpoint.certificate == "/etc/inlay/web.pem");
  CHECK(config->bundle_endpoint.key == "/run/web-key.pem");
  CHECK(config->bundle_endpoint.path == "/bundle.json");
  REQUIRE(config->federations.size() == 2);
  CHECK(config->federations[0].ca_file == "/etc/inlay/ca.pem");
  CHECK(config->federations[0].endpoint_spiffe_id.empty());
  CHECK(config->federations[1].endpoint_spiffe_id == "spiffe://d.test/bundles");
  CHECK(config->federations[1].bundle == "/etc/inlay/c.json");
  CHECK(parsed("").value().bundle_endpoint.listen.empty());
}

TEST_CASE("EST has names for the authority's own SVID, or a certificate of its own") {
  const std::string listen = "[est]\nlisten = \"127.0.0.1:1\"\n";
  const auto config = parsed(listen + "names = [\"ca.example.org\", \"2001:db8::1\"]");
  REQUIRE(config);
  CHECK(config->est.listen.size() == 1);
  CHECK(config->est.names.size() == 2);
  CHECK(parsed(listen + "certificate = \"a\"\nkey = \"b\""));
  for (const std::string &bad :
       {std::string("[est]\nnames = \"a\""), listen, listen + "names = []",
        listen + "names = \"A\"", listen + "names = \"a,DNS:b\"", listen + "names = \"a b\"",
        listen + "names = \"a\"\ncertificate = \"a\"\nkey = \"b\"", listen + "certificate = \"a\"",
        listen + "names = \"a\"\nprofile = \"https_web\""}) {
    CHECK_MESSAGE(!parsed(bad), bad);
  }
}

TEST_CASE("profiles that lack what they need, or have what they do not, are refused") {
  const std::string endpoint = "[bundle_endpoint]\n";
  const std::string listen = endpoint + "listen = \"127.0.0.1:1\"\n";
  const std::string spiffe = "profile = \"https_spiffe\"\n", web = "profile = \"https_web\"\n";
  const std::string id = "endpoint_spiffe_id = \"spiffe://b.test/ca\"\n";
  CHECK(parsed(listen));
  CHECK(parsed(federation(web)));
  CHECK(parsed(federation(spiffe + id)));
  for (const std::string &bad :
       {endpoint,
        listen + web,
        listen + "certificate = \"a\"",
        listen + "key = \"a\"",
        listen + "certificate = \"a\"\nkey = \"b\"",
        listen + "profile = \"http\"",
        listen + "path = \"x\"",
        listen + "path = \"/x?y\"",
        federation(""),
        federation(spiffe),
        federation(web + id),
        federation(web + "bundle = \"x\""),
        federation(spiffe + id + "ca_file = \"x\""),
        federation(spiffe + "endpoint_spiffe_id = \"spiffe://b.test\""),
        federation(web) + federation(web),
        std::string("[[federation]]\ntrust_domain = \"example.org\"\nurl = \"https://x/\"\n") + web,
        std::string("[[federation]]\ntrust_domain = \"b.test\"\nurl = \"http://x/\"\n") + web,
        std::string("[[federation]]\ntrust_domain = \"b.test\"\nurl = \"https://\"\n") + web,
        std::string("[[federation]]\ntrust_domain = \"b.test\"\nurl = \"https://u@x/\"\n") + web,
        std::string("[[federation]]\ntrust_domain = \"b.test\"\nurl = \"https://x/ y\"\n") + web}) {
    CHECK_MESSAGE(!parsed(bad), bad);
  }
}
