#include "identity/agent/executable_digest.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "child.h"
#include "tests/unit/policy/temporary_folder.h"

using namespace inlay::identity::agent;
using inlay::identity::agent::testing::Child;
using inlay::policy::sample::TemporaryFolder;

namespace {

// As sha256sum(1) says.
std::string sha256sum(const std::string &path) {
  std::FILE *pipe = popen(("sha256sum '" + path + "'").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 65> text{};
  CHECK(std::fread(text.data(), 1, 64, pipe) == 64);
  pclose(pipe);
  return text.data();
}

}  // namespace

TEST_CASE("an executable's digest is that of the file the process runs") {
  TemporaryFolder folder;
  std::string program = folder / "program";
  std::filesystem::copy_file("/usr/bin/sleep", program);
  const std::string wanted = sha256sum(program);
  Child child([] {}, program);
  ExecutableDigests digests;
  Workload workload = examine(child.caller()).value();
  CHECK(digests.digest(workload) == wanted);
  CHECK(digests.digest(workload) == wanted);

  SUBCASE("also when its path leads to another file by now") {
    std::filesystem::rename(folder.write("newer", "#!/bin/sh\n"), program);
    CHECK(digests.digest(workload) == wanted);
  }
  SUBCASE("not when the process runs another file by now") {
    workload.executable_inode += 1;
    CHECK(digests.digest(workload).error() == "it has executed another program since it asked");
  }
  SUBCASE("not when it has ended") {
    child.end();
    CHECK_FALSE(digests.digest(workload).has_value());
  }
}

TEST_CASE("a file that was changed has another digest, cached or not") {
  TemporaryFolder folder;
  std::string program = folder / "program";
  std::filesystem::copy_file("/usr/bin/sleep", program);
  ExecutableDigests digests;
  std::string before;
  {
    Child child([] {}, program);
    before = digests.digest(examine(child.caller()).value()).value();
  }
  // In place, same size; the loader does not mind what is behind the last section's header.
  std::FILE *file = std::fopen(program.c_str(), "r+");
  REQUIRE(file != nullptr);
  std::fseek(file, 8, SEEK_SET);  // padding of e_ident
  std::fputc('x', file);
  std::fclose(file);
  Child child([] {}, program);
  auto after = digests.digest(examine(child.caller()).value());
  REQUIRE(after.has_value());
  CHECK(*after != before);
  CHECK(*after == sha256sum(program));
}
