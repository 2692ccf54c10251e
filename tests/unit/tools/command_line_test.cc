#include "tools/command_line.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace inlay::tools;
using Words = std::vector<std::string>;

TEST_CASE("the number of a process is one, or the complaint says what was written") {
  for (const char *bad : {"abc", "0", "-5", "12x", "99999999999999", ""}) {
    CAPTURE(bad);
    CommandLine line("help", "version");
    pid_t pid = 7;
    line.root().subcommand("log", "log").positive_number("pid", pid);
    CHECK_THROWS(line.run({"log", bad}));
    CHECK(pid == 7);
  }
  CommandLine line("help", "version");
  pid_t pid = 0;
  line.root().subcommand("log", "log").positive_number("pid", pid);
  line.run({"log", "4194304"});
  CHECK(pid == 4194304);
}

TEST_CASE("a command that is passed on has all its words, whatever else they name") {
  CommandLine line("help", "version");
  const Command root = line.root();
  bool status = false;
  Words passed;
  std::string by;
  root.subcommand("status", "status").callback([&] { status = true; });
  const Command ca = root.subcommand("ca", "ca");
  ca.require_subcommand();
  for (const char *name : {"rotate", "revoke"}) {
    ca.pass_on(name, [&, name](Words words) {
      by = name;
      passed = std::move(words);
    });
  }
  root.pass_on("agent", [&](Words words) {
    by = "agent";
    passed = std::move(words);
  });

  line.run({"ca", "rotate", "status"});
  CHECK(by == "rotate");
  CHECK(passed == Words{"status"});
  line.run({"ca", "rotate", "revoke", "--help", "ca", "--version", "--", "-x"});
  CHECK(by == "rotate");
  CHECK(passed == Words{"revoke", "--help", "ca", "--version", "--", "-x"});
  line.run({"agent"});
  CHECK(by == "agent");
  CHECK(passed.empty());
  CHECK_FALSE(status);

  by.clear();
  line.run({"status"});
  CHECK(status);
  CHECK_THROWS_AS(line.run({"ca"}), UsageError);
  try {
    line.run({"ca", "nonsense"});
    FAIL("nonsense is taken for a command");
  } catch (const UsageError &error) {
    CHECK(error.message == "there is no command 'nonsense'");
  }
  CHECK(by.empty());
}
