// libinlay.so: where it is, and the environment that puts it into a program.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::tools {

// The absolute path of libinlay.so: beside this executable in a build tree, else where it is
// installed. The error is one line.
tl::expected<std::string, std::string> find_library();

// Why the loader could not load the library at `path`, as the end of a sentence that starts with
// it; "" when it can. The loader only complains of what it cannot preload, and goes on: the program
// would run in the clear.
std::string loading_problem(const std::string &path);

// LD_PRELOAD with `library` first, except for a sanitizer's runtime, which must come before
// everything. Another libinlay.so in `current` (a nested `inlay run`) is replaced.
std::string preload_list(std::string_view current, std::string_view library);

}  // namespace inlay::tools
