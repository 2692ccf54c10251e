#include "tools/status_text.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

using namespace inlay::tools;
using Json = nlohmann::json;

namespace {

Json report() {
  return {{"ready", true},
          {"version", "0.1.0"},
          {"machine", "host"},
          {"time", "2026-11-27T03:28:00Z"},
          {"trust_domain", "example.org"},
          {"agent", {{"pid", 812}, {"uid", 0}, {"socket", "/run/a.sock"}, {"since_in", -9000}}},
          {"source", {{"up", true}, {"name", "authority /etc/a"}}},
          {"identities",
           {{{"spiffe_id", "spiffe://example.org/web"},
             {"ready", true},
             {"error", ""},
             {"expires_in", 2520},
             {"renews_in", 720},
             {"processes", 2},
             {"entries", {"user 1000", "unit web*"}}}}},
          {"known_identities", 1},
          {"processes",
           {{{"pid", 42},
             {"uid", 4294967294},
             {"since_in", -70},
             {"has_newest_svid", false},
             {"executable", "/usr/bin/web"},
             {"spiffe_id", "spiffe://example.org/web"}}}},
          {"attached_processes", 1},
          {"authorities",
           {{{"trust_domain", "example.org"}, {"expires_in", 86400 * 55}, {"subject", "CN=a"}}}},
          {"problems", Json::array()}};
}

std::string text_of(const Json &json) {
  const auto status = read_status(json.dump());
  REQUIRE(status);
  return status->text;
}
bool has(const std::string &text, const std::string &part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a span has the unit of which there are two or more") {
  struct Row {
    long long seconds;
    const char *text;
  };
  for (const Row &row :
       {Row{0, "now"}, Row{1, "in 1 s"}, Row{119, "in 119 s"}, Row{120, "in 2 min"},
        Row{7199, "in 119 min"}, Row{7200, "in 2 h"}, Row{86400, "in 24 h"},
        Row{2 * 86400, "in 2 days"}, Row{-1, "1 s ago"}, Row{-3 * 86400, "3 days ago"},
        Row{std::numeric_limits<long long>::min(), "106751991167300 days ago"}}) {
    CAPTURE(row.seconds);
    CHECK(span_text(row.seconds) == row.text);
  }
}

TEST_CASE("what is well fits one screen and says so") {
  const std::string text = text_of(report());
  CAPTURE(text);
  CHECK(text.starts_with("host: ready\n"));
  for (const char *part :
       {"source        authority /etc/a, up", "clock         2026-11-27T03:28:00Z",
        "spiffe://example.org/web  in 42 min  in 12 min  2          user 1000; or unit web*",
        "older", "in 55 days", "nothing is wrong"}) {
    CAPTURE(part);
    CHECK(has(text, part));
  }
  CHECK(std::count(text.begin(), text.end(), '\n') < 24);
}

TEST_CASE("what is wrong is said with what to do") {
  Json json = report();
  json["ready"] = false;
  json["source"]["up"] = false;
  json["identities"][0]["ready"] = false;
  json["identities"][0]["error"] = "down";
  json["identities"][0]["next_attempt_in"] = 12;
  json["problems"] = {{{"severity", "error"}, {"what", "no valid SVID"}, {"do", "call somebody"}}};
  const std::string text = text_of(json);
  CAPTURE(text);
  CHECK(text.starts_with("host: NOT READY\n"));
  CHECK(has(text, "DOWN"));
  CHECK(has(text, "NO SVID"));
  CHECK(has(text, "FAILS, again in 12 s"));
  CHECK(has(text, "error: no valid SVID\n    call somebody\n"));
  CHECK_FALSE(has(text, "nothing is wrong"));
}

TEST_CASE("long tables are cut, and say how much is left out") {
  Json json = report();
  for (int row = 0; row < 99; ++row) json["identities"].push_back(json["identities"][0]);
  for (int row = 0; row < 99; ++row) json["problems"].push_back({{"severity", "notice"}});
  json["known_identities"] = 5000;
  const std::string text = text_of(json);
  CHECK(has(text, "and 4988 more; --json has them"));
  CHECK(has(text, "and 91 more; --json has them"));
  CHECK(std::count(text.begin(), text.end(), '\n') < 60);
}

TEST_CASE("an answer that is no report is told from one that says not ready") {
  for (const char *bad : {"", "{}", "[]", "{\"ready\":1}", "{", "\xff"}) {
    CAPTURE(bad);
    CHECK_FALSE(read_status(bad));
  }
  const auto bare = read_status(R"({"ready":false})");
  REQUIRE(bare);
  CHECK_FALSE(bare->ready);
}

TEST_CASE("members of other kinds, and control characters, do no harm") {
  const Json whole = report();
  for (const auto &[name, value] : whole.items()) {
    if (name == "ready") continue;
    for (const Json &wrong : {Json(), Json(1), Json("x"), Json::array({1, "x", nullptr}),
                              Json::object({{"x", 1}}), Json::array({Json::object()})}) {
      Json json = report();
      json[name] = wrong;
      CAPTURE(json.dump());
      CHECK(read_status(json.dump()));
    }
  }
  Json json = report();
  json["machine"] = "a\x1b[2J\nb";
  json["identities"][0]["entries"] = {"\xe2\x80\xae"};
  const auto status = read_status(json.dump());
  REQUIRE(status);
  CHECK_FALSE(has(status->text, "\x1b"));
  CHECK_FALSE(has(status->text, "\xe2\x80\xae"));
  for (const char c : status->json) CHECK((c == '\n' || (c >= ' ' && c < 127)));
}
