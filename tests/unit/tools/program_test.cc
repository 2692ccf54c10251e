#include "tools/program.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "temporary_folder.h"
#include "tools/exit_code.h"

using namespace inlay::tools;

TEST_CASE("script lines are split as the kernel splits them") {
  struct Row {
    std::string head, interpreter, argument;
  };
  std::vector<Row> rows = {
      {"#!/bin/sh\necho", "/bin/sh", ""},
      {"#! /bin/sh \n", "/bin/sh", ""},
      {"#!\t/usr/bin/env  python3 -u \n", "/usr/bin/env", "python3 -u"},
      {"#!/bin/sh", "/bin/sh", ""},
      {"#!\n", "", ""},
      {"#!", "", ""},
      {"", "", ""},
      {"/bin/sh\n", "", ""},
  };
  for (const Row &row : rows) {
    ScriptLine line = parse_script_line(row.head);
    CHECK(line.interpreter == row.interpreter);
    CHECK(line.argument == row.argument);
  }
}

TEST_CASE("a command is found as execvp finds it") {
  TemporaryFolder first;
  TemporaryFolder second;
  first.write("plain", "data");
  second.write("plain", "#!/bin/sh\n", 0755);
  second.write("only", "#!/bin/sh\n", 0755);
  ::mkdir((first.path() + "/folder").c_str(), 0755);
  std::string path = first.path() + ":" + second.path();
  ScopedVariable variable("PATH", path.c_str());

  CHECK(find_command("only").value() == second.path() + "/only");
  CHECK(find_command("plain").value() == second.path() + "/plain");
  CHECK(find_command(second.path() + "/only").value() == second.path() + "/only");
  CHECK(find_command("missing").error().exit_code == kExitNotFound);
  CHECK(find_command("").error().exit_code == kExitNotFound);
  CHECK(find_command("/nonexistent/x").error().exit_code == kExitNotFound);
  CHECK(find_command("folder").error().exit_code == kExitCannotExecute);
  CHECK(find_command(first.path() + "/plain").error().exit_code == kExitCannotExecute);
}

TEST_CASE("an ordinary program can be protected") {
  auto program = examine("/proc/self/exe", Imports::skip);
  REQUIRE(program);
  CHECK(program->obstacle == "");
  CHECK(program->chain.size() == 1);
}

TEST_CASE("a script is judged by its interpreter") {
  TemporaryFolder folder;
  std::string inner = folder.write("inner", "#!/bin/sh\n", 0755);
  std::string outer = folder.write("outer", "#!" + inner + "\n", 0755);
  std::string bare = folder.write("bare", "echo no first line\n", 0755);
  std::string by_env = folder.write("by_env", "#!/usr/bin/env sh\n", 0755);
  std::string lost = folder.write("lost", "#!/nonexistent/interpreter\n", 0755);
  std::string loop = folder.write("loop", "#!" + folder.path() + "/loop\n", 0755);
  std::string garbage = folder.write("garbage", std::string("\1\0\2", 3), 0755);
  std::string empty = folder.write("empty", "", 0755);

  CHECK(examine(inner, Imports::skip)->chain == std::vector<std::string>{inner, "/bin/sh"});
  CHECK(examine(outer, Imports::skip)->chain == std::vector<std::string>{outer, inner, "/bin/sh"});
  CHECK(examine(bare, Imports::skip)->chain == std::vector<std::string>{bare, "/bin/sh"});
  auto env_chain = examine(by_env, Imports::skip)->chain;
  REQUIRE(env_chain.size() == 3);
  CHECK(env_chain[1] == "/usr/bin/env");
  CHECK(env_chain[2].substr(env_chain[2].size() - 3) == "/sh");
  CHECK(examine(outer, Imports::skip)->obstacle == "");
  CHECK(examine(lost, Imports::skip).error().exit_code == kExitNotFound);
  CHECK(examine(loop, Imports::skip).error().exit_code == kExitCannotExecute);
  CHECK(examine(garbage, Imports::skip).error().exit_code == kExitCannotExecute);
  CHECK(examine(empty, Imports::skip)->chain.back() == "/bin/sh");
}

TEST_CASE("a static program cannot be protected") {
  auto program = examine("/sbin/ldconfig", Imports::skip);
  if (!program && program.error().exit_code == kExitNotFound) return;
  REQUIRE(program);
  CHECK(program->obstacle == "is statically linked, which a preload cannot reach");
}

TEST_CASE("set-ID bits matter only where execve heeds them and they change something") {
  TemporaryFolder folder;
  std::string file = folder.write("program", "#!/bin/sh\n", 0755);
  CHECK(secure_execution(file) == "");
  // To the same user: the kernel sets no AT_SECURE.
  REQUIRE(::chmod(file.c_str(), 04755) == 0);
  CHECK(secure_execution(file) == "");
  if (::geteuid() != 0) return;  // only root can make a file of another user's
  REQUIRE(::chown(file.c_str(), 65534, ::getegid()) == 0);
  REQUIRE(::chmod(file.c_str(), 04755) == 0);
  CHECK(secure_execution(file) == "is set-user-ID");
  REQUIRE(::chown(file.c_str(), 0, 65534) == 0);
  REQUIRE(::chmod(file.c_str(), 02755) == 0);
  CHECK(secure_execution(file) == "is set-group-ID");
  REQUIRE(::chmod(file.c_str(), 02745) == 0);  // without group execute: mandatory locking
  CHECK(secure_execution(file) == "");
}
