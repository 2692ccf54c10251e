#include "tools/preload.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

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
