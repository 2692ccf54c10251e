#include "tools/elf_image.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <optional>

namespace inlay::tools {
namespace {

static_assert(sizeof(void *) == 8, "the reader below knows 64-bit files only");

tl::unexpected<ElfError> bad(std::string message) {
  return tl::make_unexpected(ElfError{std::move(message)});
}

template <typename T>
std::optional<T> at(std::string_view file, std::uint64_t offset) {
  if (offset > file.size() || file.size() - offset < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

// The NUL-terminated string at `offset`, or nothing when it is not inside the file.
std::optional<std::string> string_at(std::string_view file, std::uint64_t offset) {
  if (offset >= file.size()) return std::nullopt;
  std::string_view rest = file.substr(offset);
  std::size_t end = rest.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  return std::string(rest.substr(0, end));
}

struct Dynamic {
  std::uint64_t strings = 0;  // file offsets; 0 = absent
  std::uint64_t symbols = 0;
  std::uint64_t hash = 0;
  std::uint64_t gnu_hash = 0;
  std::uint64_t soname = 0;  // offsets into strings; 0 = absent
  std::vector<std::uint64_t> needed;
};

class Reader {
 public:
  Reader(std::string_view file, const Elf64_Ehdr &header) : file_(file) {
    for (std::uint32_t i = 0; i < header.e_phnum; ++i) {
      auto segment = at<Elf64_Phdr>(file, header.e_phoff + std::uint64_t{i} * sizeof(Elf64_Phdr));
      if (!segment) {
        complete_ = false;
        break;
      }
      segments_.push_back(*segment);
    }
  }

  tl::expected<ElfImage, ElfError> read(Imports imports) {
    if (!complete_) return bad("the program headers lie outside the file");
    ElfImage image;
    for (const Elf64_Phdr &segment : segments_) {
      if (segment.p_type == PT_LOAD &&
          (segment.p_offset > file_.size() || segment.p_filesz > file_.size() - segment.p_offset)) {
        return bad("a segment lies outside the file, which is cut short");
      }
      if (segment.p_type == PT_INTERP) {
        auto name = string_at(file_, segment.p_offset);
        if (!name) return bad("PT_INTERP lies outside the file");
        image.interpreter = *name;
      } else if (segment.p_type == PT_NOTE) {
        image.go = image.go || has_go_note(segment);
      } else if (segment.p_type == PT_DYNAMIC) {
        auto dynamic = read_dynamic(segment);
        if (!dynamic || !read_names(*dynamic, image)) {
          return bad("the dynamic section lies outside the file");
        }
        if (imports == Imports::read && !read_imports(*dynamic, image)) {
          return bad("the dynamic symbols lie outside the file");
        }
      }
    }
    return image;
  }

 private:
  // Where a virtual address lies in the file.
  std::uint64_t offset_of(std::uint64_t address) const {
    for (const Elf64_Phdr &segment : segments_) {
      if (segment.p_type == PT_LOAD && address >= segment.p_vaddr &&
          address - segment.p_vaddr < segment.p_filesz) {
        return address - segment.p_vaddr + segment.p_offset;
      }
    }
    return 0;
  }

  // The linker of Go writes a note of owner "Go" and type 4 with the build ID.
  bool has_go_note(const Elf64_Phdr &segment) const {
    std::uint64_t offset = segment.p_offset;
    std::uint64_t left = segment.p_filesz;
    while (left >= sizeof(Elf64_Nhdr)) {
      auto note = at<Elf64_Nhdr>(file_, offset);
      if (!note) return false;
      std::uint64_t name = (std::uint64_t{note->n_namesz} + 3) & ~std::uint64_t{3};
      std::uint64_t size =
          sizeof(Elf64_Nhdr) + name + ((std::uint64_t{note->n_descsz} + 3) & ~std::uint64_t{3});
      auto owner = at<std::uint32_t>(file_, offset + sizeof(Elf64_Nhdr));
      if (note->n_namesz == 4 && owner && std::memcmp(&*owner, "Go\0", 4) == 0) return true;
      if (size > left) return false;
      offset += size;
      left -= size;
    }
    return false;
  }

  std::optional<Dynamic> read_dynamic(const Elf64_Phdr &segment) const {
    Dynamic dynamic;
    for (std::uint64_t i = 0; i < segment.p_filesz / sizeof(Elf64_Dyn); ++i) {
      auto entry = at<Elf64_Dyn>(file_, segment.p_offset + i * sizeof(Elf64_Dyn));
      if (!entry) return std::nullopt;
      switch (entry->d_tag) {
        case DT_NULL:
          return dynamic;
        case DT_STRTAB:
          dynamic.strings = offset_of(entry->d_un.d_ptr);
          break;
        case DT_SYMTAB:
          dynamic.symbols = offset_of(entry->d_un.d_ptr);
          break;
        case DT_HASH:
          dynamic.hash = offset_of(entry->d_un.d_ptr);
          break;
        case DT_GNU_HASH:
          dynamic.gnu_hash = offset_of(entry->d_un.d_ptr);
          break;
        case DT_SONAME:
          dynamic.soname = entry->d_un.d_val;
          break;
        case DT_NEEDED:
          dynamic.needed.push_back(entry->d_un.d_val);
          break;
        default:
          break;
      }
    }
    return dynamic;
  }

  bool read_names(const Dynamic &dynamic, ElfImage &image) const {
    if (dynamic.soname != 0) {
      auto name = string_at(file_, dynamic.strings + dynamic.soname);
      if (!name) return false;
      image.soname = *name;
    }
    for (std::uint64_t offset : dynamic.needed) {
      auto name = string_at(file_, dynamic.strings + offset);
      if (!name) return false;
      image.needed.push_back(*name);
    }
    return true;
  }

  // DT_GNU_HASH leaves undefined symbols out, in front of the first hashed one; DT_HASH counts all.
  bool read_imports(const Dynamic &dynamic, ElfImage &image) const {
    std::uint64_t count = 0;
    if (dynamic.gnu_hash != 0) {
      auto first_hashed = at<std::uint32_t>(file_, dynamic.gnu_hash + 4);
      if (!first_hashed) return false;
      count = *first_hashed;
    } else if (dynamic.hash != 0) {
      auto chains = at<std::uint32_t>(file_, dynamic.hash + 4);
      if (!chains) return false;
      count = *chains;
    }
    for (std::uint64_t i = 1; i < count; ++i) {
      auto symbol = at<Elf64_Sym>(file_, dynamic.symbols + i * sizeof(Elf64_Sym));
      if (!symbol) return false;
      if (symbol->st_shndx != SHN_UNDEF || symbol->st_name == 0) continue;
      auto name = string_at(file_, dynamic.strings + symbol->st_name);
      if (!name) return false;
      image.imports.push_back(*name);
    }
    return true;
  }

  std::string_view file_;
  std::vector<Elf64_Phdr> segments_;
  bool complete_ = true;
};

}  // namespace

tl::expected<ElfImage, ElfError> parse_elf(std::string_view file, Imports imports) {
  // e_ident, e_type and e_machine lie at the same place in both classes.
  if (!is_elf(file) || file.size() < 20) return bad("not an ELF file");
  auto file_class = static_cast<unsigned char>(file[EI_CLASS]);
  ElfImage image;
  image.bits = file_class == ELFCLASS64 ? 64 : 32;
  image.machine = *at<std::uint16_t>(file, 18);
  if (file_class != ELFCLASS64 || file[EI_DATA] != ELFDATA2LSB) return image;

  auto header = at<Elf64_Ehdr>(file, 0);
  if (!header) return bad("the ELF header is cut short");
  if (header->e_phnum != 0 && header->e_phentsize != sizeof(Elf64_Phdr)) {
    return bad("the program headers have an unknown size");
  }
  auto read = Reader(file, *header).read(imports);
  if (!read) return read;
  read->bits = image.bits;
  read->machine = image.machine;
  return read;
}

tl::expected<ElfImage, ElfError> read_elf(const std::string &path, Imports imports) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return bad(std::strerror(errno));
  struct stat status {};
  void *map = MAP_FAILED;
  if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    map = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
  }
  ::close(fd);
  if (map == MAP_FAILED) return bad("not a regular file with something in it");
  auto size = static_cast<std::size_t>(status.st_size);
  auto image = parse_elf({static_cast<const char *>(map), size}, imports);
  ::munmap(map, size);
  return image;
}

std::uint16_t own_machine() {
#if defined(__x86_64__)
  return EM_X86_64;
#elif defined(__aarch64__)
  return EM_AARCH64;
#else
#error "name the ELF machine of this processor here"
#endif
}

std::string machine_name(std::uint16_t machine) {
  switch (machine) {
    case EM_X86_64:
      return "x86-64";
    case EM_AARCH64:
      return "aarch64";
    case EM_386:
      return "i386";
    case EM_ARM:
      return "arm";
    case EM_RISCV:
      return "riscv";
    default:
      return fmt::format("machine {}", machine);
  }
}

}  // namespace inlay::tools
