#include "policy/reason.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <set>
#include <string>

using inlay::policy::kReasonCount;
using inlay::policy::Reason;

TEST_CASE("every reason has a kebab-case name of its own and a sentence") {
  std::set<std::string> names;
  for (std::size_t i = 0; i < kReasonCount; ++i) {
    auto reason = static_cast<Reason>(i);
    std::string name(inlay::policy::name(reason));
    CHECK(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos);
    CHECK(names.insert(name).second);
    CHECK_FALSE(inlay::policy::sentence(reason).empty());
  }
  CHECK(inlay::policy::name(static_cast<Reason>(kReasonCount)) == "unknown");
}

TEST_CASE("the table of reasons in CONFIG.md is the one of reason.h, in its order") {
  std::FILE *file = std::fopen(INLAY_SOURCE "/policy/CONFIG.md", "r");
  REQUIRE(file != nullptr);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  std::fclose(file);
  std::string rows;
  for (std::size_t i = 1; i < kReasonCount; ++i) {
    auto reason = static_cast<Reason>(i);
    rows += "| `" + std::string(inlay::policy::name(reason)) + "` | " +
            std::string(inlay::policy::sentence(reason)) + " |\n";
  }
  INFO("expected:\n" << rows);
  CHECK(text.find(rows) != std::string::npos);
}
