#include "identity/enrolment_token.h"

#include <doctest/doctest.h>

using namespace inlay::identity;

TEST_CASE("a token is one line that is read back, space around it or not") {
  EnrolmentToken token, other;
  token.pin.fill(7);
  REQUIRE(make_secret(token));
  REQUIRE(make_secret(other));
  CHECK(token.secret != other.secret);
  const std::string text = token.text();
  CHECK(text.size() == 92);
  CHECK(text.starts_with("inlay1"));
  CHECK(parse_enrolment_token(text).value() == token);
  CHECK(parse_enrolment_token(" " + text + "\r\n").value() == token);
  CHECK(token.secret_digest().size() == 32);
  CHECK(token.secret_digest() != other.secret_digest());
}

TEST_CASE("what is no token is refused, and not repeated") {
  EnrolmentToken token;
  REQUIRE(make_secret(token));
  const std::string text = token.text();
  for (const std::string &bad :
       {std::string(), std::string("\n"), text.substr(1), text.substr(0, 91), text + "A",
        "inlay2" + text.substr(6), text.substr(0, 20) + "+" + text.substr(21),
        text.substr(0, 91) + "-" /* bits beyond the 32nd byte */, text + "\n" + text}) {
    const auto parsed = parse_enrolment_token(bad);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().find('\n') == std::string::npos);
    CHECK((bad.size() < 20 || parsed.error().find(bad.substr(0, 20)) == std::string::npos));
  }
  CHECK(digest_of_secret("short").empty());
}
