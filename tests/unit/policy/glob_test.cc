#include "policy/glob.h"

#include <doctest/doctest.h>

#include <random>
#include <string>

#include "policy/policy.h"
#include "sample.h"

using namespace inlay::policy;

namespace {

// The definition, word for word; exponential.
bool naive(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern.starts_with("**")) {
    for (std::size_t i = 0; i <= text.size(); ++i) {
      if (naive(pattern.substr(2), text.substr(i))) return true;
    }
    return false;
  }
  if (pattern.front() == '*') {
    for (std::size_t i = 0; i <= text.size(); ++i) {
      if (naive(pattern.substr(1), text.substr(i))) return true;
      if (i < text.size() && text[i] == '/') return false;
    }
    return false;
  }
  return !text.empty() && text.front() == pattern.front() &&
         naive(pattern.substr(1), text.substr(1));
}

}  // namespace

TEST_CASE("T26 T27 what stars stand for") {
  struct Case {
    const char *pattern;
    const char *text;
    bool matches;
  };
  const Case cases[] = {
      {"", "", true},          {"", "a", false},           {"a", "a", true},
      {"a", "ab", false},      {"ab", "a", false},         {"*", "", true},
      {"*", "abc", true},      {"*", "a/c", false},        {"**", "", true},
      {"**", "a/b/c", true},   {"a*", "a", true},          {"a*c", "abbc", true},
      {"a*c", "ab/c", false},  {"a**c", "ab/c", true},     {"*/b", "a/b", true},
      {"*/b", "a/x/b", false}, {"**/b", "a/x/b", true},    {"/a/**", "/a", false},
      {"/a/**", "/a/", true},  {"/a/**/b", "/a/b", false}, {"/a/**/b", "/a/x/b", true},
      {"a.c", "abc", false},   {"a?c", "abc", false},      {"[ab]", "a", false},
      {"***", "a/b", true},    {"*b*", "aaabaaa", true},   {"*ab*ab", "abab", true},
  };
  for (const Case &c : cases) {
    CAPTURE(std::string(c.pattern));
    CAPTURE(std::string(c.text));
    CHECK(glob_matches(c.pattern, c.text) == c.matches);
    CHECK(naive(c.pattern, c.text) == c.matches);
  }
}

TEST_CASE("the matcher agrees with the definition on random patterns") {
  std::mt19937 random(20);
  auto word = [&](std::string_view letters, std::size_t most) {
    std::string out(random() % (most + 1), ' ');
    for (char &c : out) c = letters[random() % letters.size()];
    return out;
  };
  int matched = 0;
  for (int i = 0; i < 100000; ++i) {
    std::string pattern = word("**ab/", 9), text = word("ab/", 9);
    bool expected = naive(pattern, text);
    matched += expected ? 1 : 0;
    if (glob_matches(pattern, text) == expected) continue;
    FAIL_CHECK("pattern " << pattern << ", text " << text << ": definition says " << expected);
  }
  CHECK(matched > 1000);
  CHECK(matched < 99000);
}

TEST_CASE("the matcher agrees with the definition where its sets span machine words") {
  std::mt19937 random(21);
  for (int i = 0; i < 2000; ++i) {
    std::string prefix(50 + random() % 30, 'a');
    std::string pattern = prefix + "*b" + (random() % 2 != 0 ? "**" : "*") + "a";
    std::string text = prefix;
    for (auto n = random() % 12; n > 0; --n) text += "ab/"[random() % 3];
    CHECK(glob_matches(pattern, text) == naive(pattern, text));
  }
}

TEST_CASE("no pattern takes more than pattern times text steps") {
  // Exponential or cubic matchers do not come back from this.
  std::string pattern, text(2048, 'a');
  while (pattern.size() + 3 < kMaxGlobLength) pattern += "**a";
  CHECK_FALSE(glob_matches(pattern + "b", text));
  CHECK(glob_matches(pattern, text));
  CHECK_FALSE(glob_matches(std::string(kMaxGlobLength + 1, '*'), "a"));
  CHECK(glob_matches(std::string(kMaxGlobLength, '*'), "a/b"));
}

TEST_CASE("T25 T26 T27 an ID pattern matches whole IDs of its own trust domain") {
  struct Case {
    const char *pattern;
    const char *id;
    bool matches;
  };
  const Case cases[] = {
      {"spiffe://a.b/**", "spiffe://a.b/x/y", true},
      {"spiffe://a.b/**", "spiffe://a.b", false},
      {"spiffe://a.b/**", "spiffe://a.bc/x", false},
      {"spiffe://a.b/**", "spiffe://a-b/x", false},
      {"spiffe://a.b/ns/a", "spiffe://a.b/ns/ab", false},
      {"spiffe://a.b/ns/*", "spiffe://a.b/ns/x/y", false},
      {"spiffe://a.b/ns/*/sa/*", "spiffe://a.b/ns/x/sa/y", true},
      {"spiffe://a.b/.../x", "spiffe://a.b/.../x", true},
      {"spiffe://a.b/x.y", "spiffe://a.b/xzy", false},
      {"spiffe://a.b/X", "spiffe://a.b/x", false},
  };
  for (const Case &c : cases) {
    CAPTURE(std::string(c.pattern));
    CAPTURE(std::string(c.id));
    auto pattern = IdPattern::parse(c.pattern);
    REQUIRE(pattern.has_value());
    CHECK(pattern->trust_domain() == "a.b");
    CHECK(pattern->matches(sample::id(c.id)) == c.matches);
  }
}
