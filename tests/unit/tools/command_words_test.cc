#include "tools/command_words.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using inlay::tools::split_command;
using Words = std::vector<std::string>;

TEST_CASE("everything from the command on belongs to it") {
  struct Row {
    Words in, own, command;
  };
  std::vector<Row> rows = {
      {{}, {}, {}},
      {{"--"}, {}, {}},
      {{"--", "a"}, {}, {"a"}},
      {{"a", "-x", "--config", "f"}, {}, {"a", "-x", "--config", "f"}},
      {{"--strict", "a", "--strict"}, {"--strict"}, {"a", "--strict"}},
      {{"--config", "f", "a"}, {"--config", "f"}, {"a"}},
      {{"--config=f", "a"}, {"--config=f"}, {"a"}},
      {{"--config", "--", "a"}, {"--config"}, {"a"}},
      {{"--config"}, {"--config"}, {}},
      {{"--config-owner", "5", "--", "a", "--", "b"}, {"--config-owner", "5"}, {"a", "--", "b"}},
      {{"--argv0", "-sh", "sh"}, {"--argv0", "-sh"}, {"sh"}},
      {{"--", "--weird"}, {}, {"--weird"}},
      {{"", "a"}, {}, {"", "a"}},
  };
  for (const Row &row : rows) {
    auto split = split_command(row.in);
    CHECK(split.own == row.own);
    CHECK(split.command == row.command);
  }
}
