#include "tools/elf_image.h"

#include <doctest/doctest.h>
#include <elf.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include "tools/text.h"

using namespace inlay::tools;

namespace {

std::string own_executable() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A 64-bit file of one segment whose content is `content`.
std::string one_segment(std::uint32_t type, const std::string &content) {
  Elf64_Ehdr header{};
  std::copy_n(ELFMAG, SELFMAG, header.e_ident);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_phoff = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr segment{};
  segment.p_type = type;
  segment.p_offset = sizeof(header) + sizeof(segment);
  segment.p_filesz = content.size();
  std::string file(reinterpret_cast<const char *>(&header), sizeof(header));
  file.append(reinterpret_cast<const char *>(&segment), sizeof(segment));
  return file + content;
}

}  // namespace

TEST_CASE("an ordinary executable shows its loader, its libraries and its imports") {
  auto image = read_elf("/proc/self/exe", Imports::read);
  REQUIRE(image);
  CHECK(image->bits == 64);
  CHECK(image->machine == own_machine());
  CHECK(image->interpreter.find("ld-linux") != std::string::npos);
  CHECK(std::count(image->needed.begin(), image->needed.end(), "libc.so.6") == 1);
  CHECK(std::count(image->imports.begin(), image->imports.end(), "mkdtemp") == 1);
  CHECK(std::count(image->imports.begin(), image->imports.end(), "no_such_symbol") == 0);
  CHECK_FALSE(image->go);
}

TEST_CASE("imports are not read when nobody asks for them") {
  CHECK(read_elf("/proc/self/exe", Imports::skip)->imports.empty());
}

TEST_CASE("a Go build ID note is recognised") {
  std::string note("\4\0\0\0\4\0\0\0\4\0\0\0Go\0\0abcd", 20);
  std::string gnu("\4\0\0\0\4\0\0\0\3\0\0\0GNU\0abcd", 20);
  CHECK(parse_elf(one_segment(PT_NOTE, note), Imports::skip)->go);
  CHECK(parse_elf(one_segment(PT_NOTE, gnu + note), Imports::skip)->go);
  CHECK_FALSE(parse_elf(one_segment(PT_NOTE, gnu), Imports::skip)->go);
  // A size that would overflow.
  std::string huge("\xff\xff\xff\xff\xff\xff\xff\xff\4\0\0\0Go\0\0abcd", 20);
  CHECK_FALSE(parse_elf(one_segment(PT_NOTE, huge), Imports::skip)->go);
}

TEST_CASE("a static executable has no loader") {
  CHECK(parse_elf(one_segment(PT_LOAD, "code"), Imports::read)->interpreter.empty());
}

TEST_CASE("a 32-bit file is named as such") {
  std::string file = one_segment(PT_LOAD, "");
  file[EI_CLASS] = ELFCLASS32;
  file[18] = EM_386;
  auto image = parse_elf(file, Imports::read);
  REQUIRE(image);
  CHECK(image->bits == 32);
  CHECK(machine_name(image->machine) == "i386");
}

TEST_CASE("what is not ELF is refused") {
  CHECK_FALSE(parse_elf("", Imports::read));
  CHECK_FALSE(parse_elf("\177ELF", Imports::read));
  CHECK_FALSE(parse_elf("#!/bin/sh\n", Imports::read));
  CHECK_FALSE(read_elf("/nonexistent", Imports::read));
  CHECK_FALSE(read_elf("/", Imports::read));
}

TEST_CASE("a file cut short anywhere is an error or a smaller image, never a read outside it") {
  std::string whole = own_executable();
  REQUIRE(parse_elf(whole, Imports::read));
  // Every length near the front, where the headers are, and steps over the rest.
  for (std::size_t size = 0; size < whole.size(); size += size < 4096 ? 1 : whole.size() / 64 + 1) {
    std::string cut(whole, 0, size);
    cut.shrink_to_fit();
    static_cast<void>(parse_elf(cut, Imports::read));
  }
}

TEST_CASE("any single damaged byte in the headers is survived") {
  std::string whole = own_executable();
  std::string head(whole, 0, 65'536);
  for (std::size_t i = 16; i < 1024; ++i) {
    for (int value : {0x00, 0x7f, 0xff}) {
      char kept = head[i];
      head[i] = static_cast<char>(value);
      static_cast<void>(parse_elf(head, Imports::read));
      head[i] = kept;
    }
  }
}
