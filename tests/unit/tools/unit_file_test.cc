#include "tools/unit_file.h"

#include <doctest/doctest.h>

#include "tools/exec_line.h"

using namespace inlay::tools;

TEST_CASE("a unit file is read as systemd.syntax(7) says") {
  const auto settings = parse_unit_file(
      "# a comment\n"
      "[Unit]\n"
      "Description = two  words \n"
      "\n"
      "[Service]\n"
      "ExecStart=/bin/a \\\n"
      "# between\n"
      "   ; between, too\n"
      "  -b \\\n"
      "-c\n"
      "; a comment\n"
      "Environment=\n"
      "no setting\n"
      "User=redis");
  REQUIRE(settings.size() == 4);
  CHECK(settings[0].section == "Unit");
  CHECK(settings[0].key == "Description");
  CHECK(settings[0].value == "two  words");
  CHECK(settings[1].key == "ExecStart");
  CHECK(settings[1].value == "/bin/a  -b  -c");
  CHECK(settings[2].value.empty());
  CHECK(settings[3].section == "Service");
  CHECK(settings[3].value == "redis");
}

TEST_CASE("drop-ins count more than the file, and an empty value takes a list back") {
  UnitSettings unit;
  unit.add("[Service]\nExecStart=/bin/a\nUser=a\nNoNewPrivileges=yes\nReadOnlyPaths=/a /b\n");
  unit.add("[Service]\nReadOnlyPaths=/c\nUser=b\n");
  CHECK(unit.words("Service", "ReadOnlyPaths") == std::vector<std::string>{"/a", "/b", "/c"});
  CHECK(unit.last("Service", "User") == "b");
  CHECK(unit.is_on("Service", "NoNewPrivileges"));
  CHECK_FALSE(unit.is_on("Service", "PrivateTmp"));
  unit.add("[Service]\nExecStart=\nExecStart=/bin/b\nNoNewPrivileges=\n");
  CHECK(unit.list("Service", "ExecStart") == std::vector<std::string>{"/bin/b"});
  CHECK_FALSE(unit.is_on("Service", "NoNewPrivileges"));
  CHECK(unit.list("Unit", "ExecStart").empty());
}

TEST_CASE("inlay run is put in front of a command, and all else stays as it was written") {
  const std::vector<std::string> run = {"/usr/bin/inlay", "run", "--config", "/etc/a.toml"};
  const std::string by = "/usr/bin/inlay run --config /etc/a.toml";
  struct Row {
    std::string value, result;
  };
  const std::vector<Row> rows = {
      {"/bin/a", by + " -- /bin/a"},
      {"/bin/a -b 'c d' \"e\" $F ${G}", by + " -- /bin/a -b 'c d' \"e\" $F ${G}"},
      {"-/bin/a", "-" + by + " -- /bin/a"},
      {"+!!:-/bin/a b", "+!!:-" + by + " -- /bin/a b"},
      {"@/bin/a name b", by + " --argv0=name -- /bin/a b"},
      {"-@/bin/a \"a name\"", "-" + by + " --argv0=\"a name\" -- /bin/a"},
      {"\"/bin/a b\" c", by + " -- \"/bin/a b\" c"},
      {"/bin/a$b", by + " -- /bin/a$$b"},
      {":/bin/a$b", ":" + by + " -- /bin/a$b"},
      {"redis-server %i", by + " -- redis-server %i"},
      {"/bin/a \\; b", by + " -- /bin/a \\; b"},
  };
  for (const Row &row : rows) {
    CAPTURE(row.value);
    const auto lines = parse_exec_lines(row.value);
    REQUIRE(lines);
    REQUIRE(lines->size() == 1);
    CHECK(started_by(run, lines->front()) == row.result);
  }
}

TEST_CASE("a value with several commands is taken apart") {
  const auto lines = parse_exec_lines("/bin/a 1 ; -/bin/b '; ' ; /bin/c;d");
  REQUIRE(lines);
  REQUIRE(lines->size() == 3);
  CHECK(lines->at(0).arguments == " 1");
  CHECK(lines->at(1).prefix == "-");
  CHECK(lines->at(1).arguments == " '; '");
  CHECK(lines->at(2).program == "/bin/c;d");
}

TEST_CASE("a command line that is not understood is refused") {
  for (const char *value :
       {"", " ", "-", "\"/bin/a", "/bin/a 'b", "|/bin/a", "@/bin/a", "/bin/\\x41", "/bin/a\\"}) {
    CAPTURE(value);
    CHECK_FALSE(parse_exec_lines(value));
  }
}

TEST_CASE("the path of a program without quotes, and with what depends on the unit's name") {
  CHECK(parse_exec_lines("\"/bin/a b\"")->front().program == "/bin/a b");
  CHECK(parse_exec_lines("/bin/a\\ b")->front().program == "/bin/a b");
  CHECK(with_specifiers("/usr/%i/bin/%p-%N%%", "pg@15.service") == "/usr/15/bin/pg-pg@15%");
  CHECK(with_specifiers("/a/%n", "b.service") == "/a/b.service");
  CHECK_FALSE(with_specifiers("%h/a", "b.service"));
  CHECK_FALSE(with_specifiers("/a%", "b.service"));
}

TEST_CASE("a word of ours stays one word, whatever is in it") {
  CHECK(quoted_word("/usr/bin/inlay") == "/usr/bin/inlay");
  CHECK(quoted_word("/a b/$c%d\"e") == "\"/a b/$$c%%d\\\"e\"");
  CHECK(quoted_word("") == "\"\"");
}
