#include "policy/reason.h"

#include <doctest/doctest.h>

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
