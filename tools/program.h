// What a command line would start, and whether libinlay.so gets into it: by the rules of execve(2)
// and ld.so(8), without executing anything.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "tools/elf_image.h"

namespace inlay::tools {

struct Program {
  std::string path;                // the file the command names; what execve gets
  std::vector<std::string> chain;  // path, then the interpreter of each script in turn
  ElfImage image;                  // of the last of the chain
  // Why libinlay.so cannot protect it, as the end of a sentence that starts with the file's name;
  // "" when it can.
  std::string obstacle;
};

struct ProgramError {
  int exit_code;        // kExitNotFound or kExitCannotExecute
  std::string message;  // one line: what, which file
};

// Finds `command` as execvp(3) does and follows `#!` lines. Depends on this process's user IDs,
// capabilities and PATH.
tl::expected<Program, ProgramError> examine(const std::string &command, Imports imports);

// The path execvp(3) would use; the error says why there is none.
tl::expected<std::string, ProgramError> find_command(const std::string &command);

// Interpreter and optional argument of a script's first line, as the kernel splits it
// (fs/binfmt_script.c); an empty path for a line that is none.
struct ScriptLine {
  std::string interpreter;
  std::string argument;
};
ScriptLine parse_script_line(std::string_view head);

// Why the kernel would start the file with AT_SECURE, which makes ld.so drop LD_PRELOAD; "" when it
// would not.
std::string secure_execution(const std::string &path);

}  // namespace inlay::tools
