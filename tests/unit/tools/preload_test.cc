#include "tools/preload.h"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "temporary_folder.h"

using inlay::tools::loading_problem;
using inlay::tools::preload_list;

TEST_CASE("libinlay.so comes first, but behind a sanitizer's runtime") {
  struct Row {
    std::string current, list;
  };
  std::vector<Row> rows = {
      {"", "/l/libinlay.so"},
      {"/a.so", "/l/libinlay.so:/a.so"},
      {"/a.so /b.so", "/l/libinlay.so:/a.so:/b.so"},
      {"/x/libasan.so.8", "/x/libasan.so.8:/l/libinlay.so"},
      {"libasan.so.8:libubsan.so.1 /a.so", "libasan.so.8:libubsan.so.1:/l/libinlay.so:/a.so"},
      {"/a.so:libasan.so.8", "/l/libinlay.so:/a.so:libasan.so.8"},
      {"/old/libinlay.so", "/l/libinlay.so"},
      {"libasan.so.8:/old/libinlay.so:/a.so", "libasan.so.8:/l/libinlay.so:/a.so"},
      {"::  :", "/l/libinlay.so"},
  };
  for (const Row &row : rows) CHECK(preload_list(row.current, "/l/libinlay.so") == row.list);
}

TEST_CASE("a library that the loader would only complain of is told") {
  std::ifstream own("/proc/self/exe", std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(own), std::istreambuf_iterator<char>()};
  const TemporaryFolder folder;
  CHECK(loading_problem(folder.write("whole", whole)) == "");
  CHECK(loading_problem(folder.path() + "/nothing") == "No such file or directory");
  // As while it is written anew in its place.
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{4096}, std::size_t{100000}}) {
    CAPTURE(size);
    const std::string why = loading_problem(folder.write("cut", whole.substr(0, size)));
    CHECK(why.starts_with("is damaged ("));
    CHECK(why.ends_with("); install it again"));
  }
  std::string zeroed = whole;
  zeroed.replace(0, 4096, 4096, '\0');
  CHECK(
      loading_problem(folder.write("zeroed", zeroed)).starts_with("is damaged (not an ELF file)"));
  std::string foreign = whole;
  foreign[18] = '\xf3';  // e_machine: RISC-V
  CHECK(loading_problem(folder.write("foreign", foreign)) ==
        "is for another machine; install it again");
}
