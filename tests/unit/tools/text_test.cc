#include "tools/text.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using inlay::tools::printable;

TEST_CASE("other people's bytes cannot control the terminal") {
  struct Row {
    std::string in, out;
  };
  std::vector<Row> rows = {
      {"plain text", "plain text"},
      {"", ""},
      {"caf\xc3\xa9 \xe2\x86\x92 \xf0\x9f\x94\x92", "caf\xc3\xa9 \xe2\x86\x92 \xf0\x9f\x94\x92"},
      {"\x1b[31mred", "\\x1b[31mred"},
      {"two\nlines\r", "two\\x0alines\\x0d"},
      {std::string("nul\0!", 5), "nul\\x00!"},
      {"\x7f", "\\x7f"},
      {"\xc2\x9b"
       "31m",
       "\\xc2\\x9b31m"},  // C1 control sequence introducer
      {"\xe2\x80\xae"
       "evil",
       "\\xe2\\x80\\xaeevil"},              // right-to-left override
      {"\xe2\x81\xa6", "\\xe2\\x81\\xa6"},  // left-to-right isolate
      {"\xff\xfe", "\\xff\\xfe"},
      {"cut \xe2\x86", "cut \\xe2\\x86"},
      {"\xc0\x9b", "\\xc0\\x9b"},           // overlong
      {"\xed\xa0\x80", "\\xed\\xa0\\x80"},  // surrogate
      {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
  };
  for (const Row &row : rows) CHECK(printable(row.in) == row.out);
}
