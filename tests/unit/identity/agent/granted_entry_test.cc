#include "identity/agent/granted_entry.h"

#include <doctest/doctest.h>

using namespace inlay::identity;
using namespace inlay::identity::agent;

namespace {

constexpr const char *kDomain = "example.org";

GrantedEntry granted(std::vector<std::string> selectors, std::string id = "web") {
  return {.id = "0123456789ab",
          .spiffe_id = "spiffe://example.org/" + id,
          .selectors = std::move(selectors),
          .policy = "",
          .hint = ""};
}

Config config_of(const std::string &entries) {
  auto config =
      parse_config("trust_domain = \"example.org\"\nsource = { enrolled = \"/node\" }\n" + entries,
                   "/", "agent.toml", "/run/agent.sock");
  REQUIRE_MESSAGE(config, config.error().text());
  return *config;
}

}  // namespace

TEST_CASE("a granted entry is what the same entry of a configuration would be") {
  GrantedEntry entry =
      granted({"user=root", "group=0", "groups=0,root", "executable=/bin/true",
               "sha256=" + std::string(64, 'a'), "unit=web@*.service", "cgroup=/system.slice/**"});
  entry.hint = "a \"quoted\" hint\nof two lines";
  entry.workload_api = false;
  entry.refuse_traced = true;
  const auto read = read_granted(entry, kDomain);
  REQUIRE_MESSAGE(read, read.error());
  CHECK(read->id.uri() == "spiffe://example.org/web");
  CHECK(read->selectors.user == 0u);
  CHECK(read->selectors.group == 0u);
  CHECK(read->selectors.groups == std::vector<gid_t>{0, 0});
  CHECK(read->selectors.sha256 == std::string(64, 'a'));
  CHECK(read->selectors.unit == "web@*.service");
  CHECK(read->hint == entry.hint);
  CHECK(!read->workload_api);
  CHECK(read->refuse_traced);
  CHECK(read->policy == nullptr);
}

TEST_CASE("what an authority should not have granted is left out, with the reason") {
  for (const auto &selectors :
       std::vector<std::vector<std::string>>{{},
                                             {"user"},
                                             {"user=nobody-of-that-name-here"},
                                             {"id=spiffe://example.org/other"},
                                             {"policy=/etc/passwd"},
                                             {"user=root\"\nid = \"spiffe://example.org/other"},
                                             {"user=root", "user=root"},
                                             {"executable=relative"},
                                             {"unit="}}) {
    CAPTURE(selectors.size());
    CHECK(!read_granted(granted(selectors), kDomain));
  }
  GrantedEntry other = granted({"user=root"});
  other.spiffe_id = "spiffe://other.example/web";
  CHECK(!read_granted(other, kDomain));
  GrantedEntry policy = granted({"user=root"});
  policy.policy = "trust_domain = \"other.example\"\n";
  CHECK(!read_granted(policy, kDomain));
  policy.policy = "nonsense";
  CHECK(!read_granted(policy, kDomain));
}

TEST_CASE("granted entries stand behind those of the configuration; ambiguous ones are left out") {
  const Config own = config_of("[[entry]]\nid = \"spiffe://example.org/own\"\nuser = 0\n");
  const GrantedEntry conflict = granted({"uid=0"});
  const GrantedEntry good = granted({"uid=12"});
  const GrantedEntry same = granted({"uid=12", "gid=12"});
  const GrantedEntry unknown = granted({"user=nobody-of-that-name-here"});
  std::vector<std::string> left_out;
  const Config whole = with_granted(own, std::vector{conflict, good, same, unknown}, left_out);
  REQUIRE(whole.entries.size() == 3);
  CHECK(whole.entries[1].number == 2);
  CHECK(whole.entries[1].selectors.user == 12u);
  REQUIRE(left_out.size() == 2);
  CHECK(left_out[0].find("spiffe://example.org/own") != std::string::npos);
  CHECK(left_out[1].find("nobody-of-that-name-here") != std::string::npos);
  CHECK(whole.ids().size() == 2);
}
