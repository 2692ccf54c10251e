// What `inlay status` says, and what it warns of.
#include <nlohmann/json.hpp>

#include "certificates.h"
#include "identities_setup.h"
#include "identity/agent/problems.h"
#include "identity/agent/status_report.h"
#include "identity/agent_protocol.h"
#include "identity/base64.h"
#include "identity/certificate.h"

using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;
namespace certificates = inlay::testing;
using Json = nlohmann::json;

namespace {

std::string der(const X509 *certificate) {
  const auto bytes = from_base64(certificates::to_base64_der(certificate));
  return {bytes->begin(), bytes->end()};
}

// A view whose one authority and one SVID, from files, end as told.
View view_of_files(std::time_t authority_ends, std::time_t svid_begins, std::time_t svid_ends) {
  certificates::Knobs root_knobs, leaf_knobs;
  root_knobs.not_before = svid_begins - 400 * kDay;
  root_knobs.not_after = authority_ends;
  const auto root = certificates::make_authority("example.org", root_knobs);
  leaf_knobs.not_before = svid_begins;
  leaf_knobs.not_after = svid_ends;
  const auto leaf = certificates::issue(root, "spiffe://example.org/web", leaf_knobs);
  auto svid = parse_svid(certificates::chain_pem(leaf), certificates::to_pem(leaf.key.get()));
  REQUIRE(svid);
  View view;
  view.trust.bundles["example.org"].x509_authorities.push_back(der(root.certificate.get()));
  IdentityState state;
  state.current = std::make_shared<const HeldSvid>(
      HeldSvid{std::move(*svid), {der(leaf.certificate.get())}, {}, 0});
  view.identities.emplace("spiffe://example.org/web", std::move(state));
  return view;
}

// "warning: the SVID of" ... of each problem, the severity and a few words.
std::vector<std::string> severities(const View &view, std::time_t now, const std::string &about) {
  std::vector<std::string> found;
  for (const Problem &problem : problems_of(view, now)) {
    CHECK(problem.what.find('\n') == std::string::npos);
    if (problem.what.find(about) != std::string::npos) found.emplace_back(name(problem.severity));
  }
  return found;
}

using Found = std::vector<std::string>;

struct Asked {
  Setup &setup;
  std::vector<AttachedProcess> attached{};
  std::vector<EntrySummary> entries{};
  std::vector<std::string> left_out{};
  uid_t caller = 0;
  bool sees_all = true;

  Json report(std::string *whole = nullptr) const {
    const auto view = setup.identities->view();
    StatusInput input;
    input.view = view.get();
    input.trust_domain = "example.org";
    input.source = setup.identities->source_name();
    input.socket = "/run/inlay/agent.sock";
    input.configuration = "/etc/inlay/agent.toml";
    input.started = setup.clock.now - 100;
    input.attached = attached;
    input.entries = entries;
    input.left_out = left_out;
    input.caller = caller;
    input.sees_all = sees_all;
    std::string text = status_report(input, setup.clock.now);
    if (whole != nullptr) *whole = text;
    return Json::parse(text);
  }
};

}  // namespace

TEST_CASE(
    "an authority that ends in 60 days is noticed, in 30 and 7 warned of, and said when over") {
  const std::time_t now = std::time(nullptr);
  struct Row {
    std::time_t days;
    Found expected;
    const char *span;
  };
  for (const Row &row :
       {Row{61, {}, ""}, Row{59, {"notice"}, "in 59 days"}, Row{31, {"notice"}, "in 31 days"},
        Row{29, {"warning"}, "in 29 days"}, Row{6, {"warning"}, "in 6 days 1 hours"},
        Row{-1, {"warning"}, "expired at"}}) {
    CAPTURE(row.days);
    const View view = view_of_files(now + row.days * kDay + 3700, now - kDay, now + 90 * kDay);
    CHECK(severities(view, now, "the authority ") == row.expected);
    if (*row.span != 0) CHECK(severities(view, now, row.span).size() == 1);
  }
}

TEST_CASE("an SVID from files: long-lived ones by the same days, others when a quarter is left") {
  const std::time_t now = std::time(nullptr);
  const auto found = [&](std::time_t begins, std::time_t ends) {
    return severities(view_of_files(now + 400 * kDay, begins, ends), now, "the SVID of");
  };
  CHECK(found(now - 10 * kDay, now + 61 * kDay).empty());
  CHECK(found(now - 40 * kDay, now + 59 * kDay) == Found{"notice"});
  CHECK(found(now - 80 * kDay, now + 29 * kDay) == Found{"warning"});
  CHECK(found(now - 700, now + 300).empty());
  CHECK(found(now - 800, now + 200) == Found{"warning"});
  CHECK(severities(view_of_files(now + 400 * kDay, now - 800, now - 1), now, "no valid SVID") ==
        Found{"error"});
}

TEST_CASE("T22 a stale CRL stays in force, and is warned of") {
  Setup setup;
  setup.folder.put("crl.pem", make_crl(setup.folder.read("ca.pem"), setup.folder.read("ca-key.pem"),
                                       nullptr, setup.clock.now + 60));
  setup.news();
  setup.identities->renew();
  const auto fresh = setup.identities->view();
  REQUIRE(fresh->trust.crls.size() == 1);
  CHECK(severities(*fresh, setup.clock.now, "the CRL of").empty());
  setup.clock.pass(61);
  setup.identities->renew();
  const auto stale = setup.identities->view();
  CHECK(stale->trust.crls == fresh->trust.crls);
  CHECK(severities(*stale, setup.clock.now, "is stale") == Found{"warning"});
  CHECK(setup.why().empty());
}

TEST_CASE("T21 an SVID that a CRL revokes is replaced at once, and its key signs no more") {
  Setup setup;
  const auto before = setup.state().current;
  setup.folder.put("crl.pem", make_crl(setup.folder.read("ca.pem"), setup.folder.read("ca-key.pem"),
                                       before->svid.chain.front().get(), setup.clock.now + 3600));
  setup.news();
  setup.identities->renew();
  REQUIRE(setup.state().current);
  CHECK(setup.state().current != before);
  setup.identities->renew();
  CHECK(setup.state().previous.empty());
}

TEST_CASE("T21 an older SVID that a CRL revokes is kept no longer for those who have it") {
  Setup setup;
  const auto first = setup.state().current;
  setup.clock.pass(first->renew_at - setup.clock.now);
  setup.identities->renew();
  const auto second = setup.state().current;
  REQUIRE(setup.state().previous.size() == 1);
  setup.folder.put("crl.pem", make_crl(setup.folder.read("ca.pem"), setup.folder.read("ca-key.pem"),
                                       first->svid.chain.front().get(), setup.clock.now + 3600));
  setup.news();
  setup.identities->renew();
  CHECK(setup.state().previous.empty());
  CHECK(setup.state().current == second);
}

TEST_CASE("T65 a clock that was set is in the problems for an hour") {
  Setup setup;
  setup.clock.set(setup.clock.now + kDay);
  setup.identities->renew();
  CHECK(severities(*setup.identities->view(), setup.clock.now, "set forward by 86400 s").size() ==
        1);
  CHECK(severities(*setup.identities->view(), setup.clock.now + 3600, "set forward").empty());
}

TEST_CASE("ready means an SVID that has not expired, of each identity") {
  Setup setup({id("web"), id("db")});
  const Asked asked{setup};
  Json report = asked.report();
  CHECK(report["ready"] == true);
  CHECK(report["identities"].size() == 2);
  CHECK(report["problems"].empty());
  CHECK(report["source"]["up"] == true);
  CHECK(report["identities"][0]["spiffe_id"] == "spiffe://example.org/db");
  CHECK(report["identities"][0]["expires_in"] == 3600);
  CHECK(report["time"] == time_text(setup.clock.now));

  setup.by.outage = "the authority is down";
  setup.live(3000);
  report = asked.report();
  CHECK(report["ready"] == true);
  CHECK(report["source"]["up"] == false);
  REQUIRE(report["problems"].size() == 2);
  CHECK(report["problems"][0]["severity"] == "warning");
  CHECK(report["problems"][0]["spiffe_id"] == "spiffe://example.org/db");

  setup.live(700);
  report = asked.report();
  CHECK(report["ready"] == false);
  CHECK(report["identities"][0]["ready"] == false);
  CHECK(report["problems"][0]["severity"] == "error");
  CHECK(report["problems"][0]["do"] != "");
  CHECK(report["identities"][0]["next_attempt_in"] <= 30);

  Setup empty(std::vector<SpiffeId>{});
  report = Asked{empty}.report();
  CHECK(report["ready"] == false);
  CHECK(report["problems"][0]["what"].get<std::string>().find("no entry") != std::string::npos);
}

TEST_CASE("a process that still has an older SVID is told from one with the newest") {
  Setup setup;
  Asked asked{setup};
  asked.attached = {{10, 0, "/usr/bin/web", id("web").uri(), setup.clock.now,
                     setup.state().current->svid.not_after},
                    {11, 0, "/usr/bin/web", id("web").uri(), setup.clock.now, 1}};
  const Json report = asked.report();
  CHECK(report["processes"][0]["has_newest_svid"] == true);
  CHECK(report["processes"][1]["has_newest_svid"] == false);
  CHECK(report["identities"][0]["processes"] == 2);
}

TEST_CASE("a user sees what is of its own alone") {
  Setup setup({id("web"), id("db"), id("shared")});
  Asked asked{setup};
  asked.attached = {{10, 1000, "/usr/bin/web", id("web").uri(), 1, 1},
                    {11, 0, "/usr/bin/secret", id("db").uri(), 1, 1}};
  asked.entries = {{id("web").uri(), "user 1000", 1000, true},
                   {id("db").uri(), "user 0", 0, true},
                   {id("shared").uri(), "group 100", 0, false}};
  asked.caller = 1000;
  asked.sees_all = false;
  setup.by.outage = "down at /etc/secret/place";
  setup.live(4000);
  std::string text;
  const Json report = asked.report(&text);
  CHECK(report["identities"].size() == 1);
  CHECK(report["processes"].size() == 1);
  CHECK(report["attached_processes"] == 1);
  CHECK(report["complete"] == false);
  for (const char *secret : {"/usr/bin/secret", "example.org/db", "group 100", "agent.toml"}) {
    CAPTURE(secret);
    CHECK(text.find(secret) == std::string::npos);
  }
  asked.caller = 1001;
  CHECK(asked.report()["ready"] == false);
  CHECK(asked.report()["identities"].empty());
}

TEST_CASE("an entry of the authority that cannot be in force here is a problem, for who sees all") {
  Setup setup({id("web")});
  Asked asked{setup};
  asked.entries = {{id("web").uri(), "user 1000", 1000, true}};
  asked.left_out = {"entry 12 is not in force here: there is no user \"x\" here"};
  asked.caller = 0;
  asked.sees_all = true;
  setup.live(4000);
  const Json report = asked.report();
  REQUIRE(report["problems"].size() == 1);
  CHECK(report["problems"][0]["what"] == asked.left_out[0]);
  CHECK(report["problems"][0]["severity"] == "warning");
  asked.caller = 1000;
  asked.sees_all = false;
  CHECK(asked.report()["problems"].empty());
}

TEST_CASE("the report stays within an answer, however many there are") {
  Setup setup;
  Asked asked{setup};
  for (pid_t pid = 1; pid < 10000; ++pid) {
    asked.attached.push_back({pid, 0, "/usr/bin/" + std::string(200, 'a'), id("web").uri(), 1, 1});
  }
  std::string text;
  const Json report = asked.report(&text);
  CHECK(text.size() <= kMaxAgentAnswer);
  CHECK(report["attached_processes"] == 9999);
  CHECK(report["processes"].size() > 1000);
}
