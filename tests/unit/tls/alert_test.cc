#include "tls/alert.h"

#include <doctest/doctest.h>

#include "bytes.h"

using namespace inlay::tls;
using inlay::tls::test::Bytes;

TEST_CASE("alerts encode with the level RFC 8446 §6 gives them") {
  CHECK(encode(Alert::close_notify) == std::array<std::uint8_t, 2>{1, 0});
  CHECK(encode(Alert::user_canceled) == std::array<std::uint8_t, 2>{1, 90});
  CHECK(encode(Alert::access_denied) == std::array<std::uint8_t, 2>{2, 49});
  CHECK(encode(Alert::no_application_protocol) == std::array<std::uint8_t, 2>{2, 120});
}

TEST_CASE("an alert is exactly two bytes and its level does not matter") {
  CHECK_FALSE(decode(Bytes{}));
  CHECK_FALSE(decode(Bytes{2}));
  CHECK_FALSE(decode(Bytes{2, 40, 0}));
  CHECK(decode(Bytes{2, 0}) == Alert::close_notify);
  CHECK(decode(Bytes{1, 49}) == Alert::access_denied);
  CHECK(decode(Bytes{9, 255}) == static_cast<Alert>(255));
}

TEST_CASE("alerts have the names of RFC 8446 §6") {
  CHECK(name(Alert::close_notify) == "close_notify");
  CHECK(name(Alert::access_denied) == "access_denied");
  CHECK(name(static_cast<Alert>(255)) == "unknown_alert");
}
