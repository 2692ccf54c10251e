// What the symbols and libraries of a program tell about calls that inlay refuses, cannot see, or
// handles in a way its user should know. Signs only: a program may import a call and never make it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/elf_image.h"

namespace inlay::tools {

enum class Severity : bool { note, caution };

struct Caution {
  Severity severity;
  std::string about;                 // "io_uring", "TLS", "splice", …
  std::string text;                  // one sentence or two: what it means, what to do
  std::vector<std::string> objects;  // paths of the objects that show it
};

struct ExaminedObject {
  std::string path;
  ElfImage image;
};

// `objects`: the program and everything it is started with. Objects of libc itself say nothing.
std::vector<Caution> cautions_of(const std::vector<ExaminedObject> &objects);

// What `inlay run --strict` changes for a program with these cautions, a sentence each. `reached`:
// libinlay.so gets into it.
std::vector<std::string> strict_effects(const std::vector<Caution> &cautions, bool reached);

}  // namespace inlay::tools
