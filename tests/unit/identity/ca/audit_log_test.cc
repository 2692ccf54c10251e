#include "identity/ca/audit_log.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/unit/tools/temporary_folder.h"

using inlay::identity::ca::AuditLog;

TEST_CASE("each event is a line of JSON with what is known, whatever bytes it has") {
  const TemporaryFolder folder;
  const std::string file = folder.path() + "/ca.jsonl";
  AuditLog log;
  REQUIRE(log.open(file));
  log.write({.event = "refused", .node = "web-1", .reason = "used", .detail = "a\n\xff\"b"});
  log.note(AuditLog::Level::warning, "the root ends soon");
  struct stat status {};
  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777 & ~0640u) == 0);
  std::ifstream lines(file);
  std::string line;
  REQUIRE(std::getline(lines, line));
  const auto first = nlohmann::json::parse(line);
  CHECK(first["event"] == "refused");
  CHECK(first["node"] == "web-1");
  CHECK(first["reason"] == "used");
  CHECK_FALSE(first.contains("serial"));
  REQUIRE(std::getline(lines, line));
  CHECK(nlohmann::json::parse(line)["level"] == "warning");
  CHECK_FALSE(std::getline(lines, line));
  CHECK(log.lost() == 0);
}

TEST_CASE("a log that cannot be opened leaves the one before, and loses nothing") {
  AuditLog log;
  const TemporaryFolder folder;
  REQUIRE(log.open(folder.path() + "/ca.jsonl"));
  CHECK_FALSE(log.open("/dev/full"));  // no regular file
  CHECK_FALSE(log.open(folder.path() + "/none/ca.jsonl"));
  log.write({.event = "issued"});
  CHECK(log.lost() == 0);
}
