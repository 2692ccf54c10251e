#include "shim/boot/json_line.h"

#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

using namespace inlay;

namespace {

std::string line_of(const policy::LogRecord &record) {
  auto process = std::make_unique<policy::LogFile>();
  process->pid = 42;
  std::strcpy(process->executable, "/usr/bin/redis-server");
  char text[shim::boot::kJsonLineSize];
  return {text, shim::boot::format_json_line(record, *process, text, sizeof text)};
}

}  // namespace

TEST_CASE("an event is one line of JSON with the fields that are known") {
  auto record = std::make_unique<policy::LogRecord>();
  record->time_ns = 1'709'210'096'123'456'789;
  record->tid = 43;
  std::strcpy(record->program, "redis-server");
  record->event = policy::Event::closed;
  record->reason = policy::Reason::closed;
  record->direction = policy::Direction::inbound;
  record->fd = 7;
  const std::uint8_t v4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1};
  const std::uint8_t v6[16] = {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  std::memcpy(record->local_address, v4, 16);
  std::memcpy(record->remote_address, v6, 16);
  record->local_port = 6379;
  record->remote_port = 50000;
  record->bytes_in = 10;
  record->bytes_out = 18446744073709551615u;
  std::strcpy(record->rule, "redis \"quoted\"");
  std::strcpy(record->peer_id, "spiffe://example.org/web");
  std::string line = line_of(*record);
  CHECK(line.back() == '\n');
  CHECK(line.find('\n') == line.size() - 1);
  auto parsed = nlohmann::json::parse(line);
  CHECK(parsed["time"] == "2024-02-29T12:34:56.123456789Z");
  CHECK(parsed["pid"] == 42);
  CHECK(parsed["executable"] == "/usr/bin/redis-server");
  CHECK(parsed["tid"] == 43);
  CHECK(parsed["program"] == "redis-server");
  CHECK(parsed["event"] == "closed");
  CHECK(parsed["reason"] == "closed");
  CHECK(parsed["direction"] == "inbound");
  CHECK(parsed["fd"] == 7);
  CHECK(parsed["local"] == "10.0.0.1:6379");
  CHECK(parsed["remote"] == "[2001:db8::1]:50000");
  CHECK(parsed["rule"] == "redis \"quoted\"");
  CHECK(parsed["peer_id"] == "spiffe://example.org/web");
  CHECK(parsed["bytes_out"] == 18446744073709551615u);
  CHECK_FALSE(parsed.contains("detail"));
}

TEST_CASE("text of any bytes stays valid JSON and fits") {
  auto record = std::make_unique<policy::LogRecord>();
  record->fd = UINT32_MAX;
  std::memset(record->rule, 0xff, sizeof record->rule - 1);
  std::memset(record->peer_id, '\n', sizeof record->peer_id - 1);
  std::memset(record->detail, 1, sizeof record->detail - 1);
  std::string line = line_of(*record);
  CHECK(line.back() == '\n');
  auto parsed = nlohmann::json::parse(line);
  CHECK(parsed["peer_id"] == std::string(sizeof record->peer_id - 1, '\n'));
  CHECK_FALSE(parsed.contains("fd"));
  CHECK_FALSE(parsed.contains("local"));
}

TEST_CASE("UTF-8 stays what it is, and what is none becomes U+FFFD byte by byte") {
  struct Row {
    const char *rule;
    const char *read;
  };
  for (const Row &row : {
           Row{"\xc3\xa9 \xe6\x9d\xb1 \xf0\x9f\x94\x91", "\xc3\xa9 \xe6\x9d\xb1 \xf0\x9f\x94\x91"},
           Row{"\xc3", "\xef\xbf\xbd"},                          // cut short
           Row{"\xe6\x9d!", "\xef\xbf\xbd\xef\xbf\xbd!"},
           Row{"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},         // overlong
           Row{"\xe0\x9f\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
           Row{"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},  // a surrogate
           Row{"\xf5\x80", "\xef\xbf\xbd\xef\xbf\xbd"},         // beyond U+10FFFF
       }) {
    auto record = std::make_unique<policy::LogRecord>();
    std::strcpy(record->rule, row.rule);
    CHECK(nlohmann::json::parse(line_of(*record))["rule"] == row.read);
  }
}

TEST_CASE("dates are right at the edges of years and leap years") {
  struct Row {
    std::int64_t seconds;
    const char *text;
  };
  for (const Row &row :
       {Row{0, "1970-01-01T00:00:00.000000000Z"}, Row{951782399, "2000-02-28T23:59:59.000000000Z"},
        Row{951782400, "2000-02-29T00:00:00.000000000Z"},
        Row{1735689599, "2024-12-31T23:59:59.000000000Z"},
        Row{4107542400, "2100-03-01T00:00:00.000000000Z"}}) {
    auto record = std::make_unique<policy::LogRecord>();
    record->time_ns = row.seconds * 1'000'000'000;
    CHECK(nlohmann::json::parse(line_of(*record))["time"] == row.text);
  }
}
