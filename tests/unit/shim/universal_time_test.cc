// The library's own gmtime_r and timegm against the C library's.
#include <doctest/doctest.h>

#include <cstdint>
#include <ctime>

#define gmtime_r own_gmtime_r
#define timegm own_timegm
#include "shim/boot/universal_time.cc"
#undef gmtime_r
#undef timegm

namespace {

void check_same(std::time_t time) {
  CAPTURE(time);
  struct tm own {
  }, expected{};
  REQUIRE(own_gmtime_r(&time, &own) != nullptr);
  REQUIRE(gmtime_r(&time, &expected) != nullptr);
  CHECK(own.tm_year == expected.tm_year);
  CHECK(own.tm_mon == expected.tm_mon);
  CHECK(own.tm_mday == expected.tm_mday);
  CHECK(own.tm_hour == expected.tm_hour);
  CHECK(own.tm_min == expected.tm_min);
  CHECK(own.tm_sec == expected.tm_sec);
  CHECK(own.tm_wday == expected.tm_wday);
  CHECK(own.tm_yday == expected.tm_yday);
  CHECK(own.tm_isdst == expected.tm_isdst);
  CHECK(own_timegm(&own) == time);
}

}  // namespace

TEST_CASE("universal time is the C library's") {
  for (std::time_t time : {0L, -1L, 951782400L, 951868799L, 4107542400L, -2208988800L,
                           253402300799L, 1700000000L, -62135596800L}) {
    check_same(time);
  }
  std::uint64_t state = 1;
  for (int i = 0; i < 2000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    check_same(static_cast<std::time_t>(state >> 27) - (1L << 36));
  }
}

TEST_CASE("a month or a second beyond its range is carried over") {
  for (int months : {-25, -1, 12, 40}) {
    struct tm own {};
    own.tm_year = 124;
    own.tm_mon = months;
    own.tm_mday = 31;
    own.tm_sec = 3700;
    struct tm expected = own;
    CHECK(own_timegm(&own) == timegm(&expected));
    CHECK(own.tm_mon == expected.tm_mon);
    CHECK(own.tm_mday == expected.tm_mday);
    CHECK(own.tm_hour == expected.tm_hour);
  }
}

TEST_CASE("a time without a year that fits is none") {
  struct tm own {};
  const std::time_t far = INT64_MAX;
  CHECK(own_gmtime_r(&far, &own) == nullptr);
}
