#include "tools/cautions.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

using namespace inlay::tools;

namespace {

ExaminedObject object(const std::string &path, std::vector<std::string> imports,
                      std::vector<std::string> needed = {}, bool go = false) {
  ElfImage image;
  image.imports = std::move(imports);
  image.needed = std::move(needed);
  image.go = go;
  return {path, image};
}

std::vector<std::string> abouts(const std::vector<ExaminedObject> &objects) {
  std::vector<std::string> names;
  for (const Caution &caution : cautions_of(objects)) names.push_back(caution.about);
  return names;
}

}  // namespace

TEST_CASE("what --strict changes is said of the program at hand") {
  auto count = [](std::vector<Caution> cautions, bool reached, const char *part) {
    auto effects = strict_effects(cautions, reached);
    return std::count_if(effects.begin(), effects.end(), [&](const std::string &effect) {
      return effect.find(part) != std::string::npos;
    });
  };
  CHECK(strict_effects({}, true).size() == 1);
  CHECK(count({}, true, "sudo") == 1);
  CHECK(count({}, false, "--allow-unprotected") == 1);
  CHECK(count(cautions_of({object("/p", {"io_uring_queue_init"})}), true, "ENOSYS") == 1);
  CHECK(count(cautions_of({object("/p", {}, {}, true)}), true, "Go") == 1);
}

TEST_CASE("signs of what inlay refuses or cannot see are named") {
  using Names = std::vector<std::string>;
  CHECK(abouts({object("/p", {"read", "connect"})}) == Names{});
  CHECK(abouts({object("/p", {"io_uring_queue_init"})}) == Names{"io_uring"});
  CHECK(abouts({object("/p", {}, {"liburing.so.2"})}) == Names{"io_uring"});
  CHECK(abouts({object("/p", {}, {"libssl.so.3"})}) == Names{"TLS"});
  CHECK(abouts({object("/p", {"splice"})}) == Names{"splice"});
  CHECK(abouts({object("/p", {"sendfile64"})}) == Names{"sendfile"});
  CHECK(abouts({object("/p", {"syscall"})}) == Names{"syscall"});
  CHECK(abouts({object("/p", {}, {}, true)}) == Names{"Go"});
}

TEST_CASE("cautions come before notes, and an object is named once for each") {
  auto cautions = cautions_of(
      {object("/p", {"dlopen", "splice", "tee"}, {"libssl.so.3"}), object("/l.so", {"splice"})});
  REQUIRE(cautions.size() == 3);
  CHECK(cautions[0].about == "splice");
  CHECK(cautions[0].objects == std::vector<std::string>{"/p", "/l.so"});
  CHECK(cautions[1].severity == Severity::note);
}

TEST_CASE("libc's own calls say nothing about the program") {
  CHECK(cautions_of({object("/lib/x86_64-linux-gnu/libc.so.6", {"dlopen", "splice"})}).empty());
}
