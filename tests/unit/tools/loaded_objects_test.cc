#include "tools/loaded_objects.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

using namespace inlay::tools;

TEST_CASE("the loader's list is understood") {
  auto objects = parse_loader_list(
      "\tlinux-vdso.so.1 (0x00007ffd3f5f6000)\n"
      "\tlibssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x00007f2d1e000000)\n"
      "\tlibgone.so.1 => not found\n"
      "\t/opt/a b/libdirect.so (0x00007f2d1d000000)\n"
      "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2d1c000000)\n"
      "\t/lib64/ld-linux-x86-64.so.2 (0x00007f2d1e400000)\n");
  CHECK(objects.paths == std::vector<std::string>{"/lib/x86_64-linux-gnu/libssl.so.3",
                                                  "/opt/a b/libdirect.so",
                                                  "/lib/x86_64-linux-gnu/libc.so.6"});
  CHECK(objects.missing == std::vector<std::string>{"libgone.so.1"});
  CHECK(parse_loader_list("").paths.empty());
  CHECK(parse_loader_list("\tstatically linked\n").paths.empty());
}

TEST_CASE("this test is loaded with libc") {
  auto objects = loaded_objects(std::filesystem::read_symlink("/proc/self/exe").string());
  REQUIRE(objects);
  auto of_libc = [](const std::string &path) { return path.find("/libc.so") != std::string::npos; };
  CHECK(std::any_of(objects->paths.begin(), objects->paths.end(), of_libc));
  CHECK(objects->missing.empty());
}
