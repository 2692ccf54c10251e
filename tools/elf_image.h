// What the headers of an ELF file say about how it will be loaded (System V gABI; GNU extensions
// for notes and the hash table). Reads the file only; nothing of it is executed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::tools {

struct ElfImage {
  std::uint8_t bits = 0;      // 32 or 64
  std::uint16_t machine = 0;  // e_machine
  std::string interpreter;    // PT_INTERP; "" for a static executable or a plain shared object
  std::string soname;
  std::vector<std::string> needed;   // DT_NEEDED
  std::vector<std::string> imports;  // undefined dynamic symbols, when asked for
  bool go = false;                   // carries a Go build ID note
};

struct ElfError {
  std::string message;  // one line, without the file's name
};

enum class Imports : bool { skip, read };

// For a file that is not of this machine's class and byte order only `bits` and `machine` are
// filled in. Every offset is checked against the size of the file.
tl::expected<ElfImage, ElfError> parse_elf(std::string_view file, Imports imports);
tl::expected<ElfImage, ElfError> read_elf(const std::string &path, Imports imports);

inline bool is_elf(std::string_view head) { return head.substr(0, 4) == "\177ELF"; }

// The machine `inlay` and libinlay.so are built for.
std::uint16_t own_machine();
// "x86-64", "aarch64", "machine 243".
std::string machine_name(std::uint16_t machine);

}  // namespace inlay::tools
