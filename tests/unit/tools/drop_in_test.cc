#include "tools/drop_in.h"

#include <doctest/doctest.h>

using namespace inlay::tools;

TEST_CASE("a drop-in replaces ExecStart=, and says who made it") {
  const std::string text = drop_in_text(
      {.unit = "redis.service",
       .after = "inlay-agent.service",
       .instead_of = {"/bin/a", "-/bin/b"},
       .exec_starts = {"/usr/bin/inlay run -- /bin/a", "-/usr/bin/inlay run -- /bin/b"},
       .additions = {"ExecPaths=/usr/bin/inlay"}});
  CHECK(text.find("inlay disable redis.service") != text.npos);
  CHECK(text.ends_with(
      "[Unit]\nWants=inlay-agent.service\nAfter=inlay-agent.service\n\n[Service]\n"
      "# Instead of: /bin/a\n# Instead of: -/bin/b\nExecStart=\n"
      "ExecStart=/usr/bin/inlay run -- /bin/a\nExecStart=-/usr/bin/inlay run -- /bin/b\n"
      "ExecPaths=/usr/bin/inlay\n"));
  CHECK(commands_replaced(text) == std::vector<std::string>{"/bin/a", "-/bin/b"});
  CHECK(commands_replaced("ExecStart=/bin/a\n").empty());
  CHECK(
      drop_in_text({.unit = "a.service", .of_user = true}).find("inlay disable --user a.service") !=
      text.npos);
}

TEST_CASE("a drop-in that somebody has changed is told from one as it was written") {
  const std::string text = drop_in_text({.unit = "a.service", .exec_starts = {"/bin/a"}});
  CHECK(is_as_written(text));
  CHECK(is_as_written("# another comment\n" + text));
  CHECK_FALSE(is_as_written(text + "User=a\n"));
  std::string changed = text;
  changed.replace(changed.find("/bin/a"), 6, "/bin/b");
  CHECK_FALSE(is_as_written(changed));
  CHECK_FALSE(is_as_written(""));
  CHECK_FALSE(is_as_written("[Service]\nUser=a\n"));
}

TEST_CASE("what changes is shown line by line") {
  CHECK(line_changes("", "a\nb\n") == "+ a\n+ b\n");
  CHECK(line_changes("a\nb\nc\n", "a\nd\nc\n") == "  a\n- b\n+ d\n  c\n");
  CHECK(line_changes("a\n", "") == "- a\n");
  CHECK(line_changes("a\n", "a\n") == "  a\n");
}
