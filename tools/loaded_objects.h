// The shared objects a program would be started with.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::tools {

struct LoadedObjects {
  std::vector<std::string> paths;    // in load order, without the vDSO and the loader
  std::vector<std::string> missing;  // names that were not found
};

// Asks this machine's own loader with --list, which maps the objects but runs nothing of them:
// neither the program nor, unlike ldd(1), the loader it names.
tl::expected<LoadedObjects, std::string> loaded_objects(const std::string &program);

// The lines of `ld.so --list`: "NAME => PATH (ADDRESS)", "PATH (ADDRESS)", "NAME => not found".
LoadedObjects parse_loader_list(std::string_view output);

}  // namespace inlay::tools
