#include "tools/preload.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "policy/trusted_file.h"
#include "tools/elf_image.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kLibraryName = "libinlay.so";

std::string_view base_name(std::string_view path) {
  return path.substr(path.find_last_of('/') + 1);
}

bool is_sanitizer(std::string_view path) {
  std::string_view name = base_name(path);
  for (std::string_view prefix : {"libasan.so", "libtsan.so", "libubsan.so", "liblsan.so",
                                  "libclang_rt.asan", "libclang_rt.tsan", "libclang_rt.ubsan"}) {
    if (name.substr(0, prefix.size()) == prefix) return true;
  }
  return false;
}

}  // namespace

tl::expected<std::string, std::string> find_library() {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return tl::make_unexpected("/proc/self/exe cannot be read; mount /proc");
  fs::path folder = self.parent_path();
  std::array<fs::path, 3> candidates = {
      folder.parent_path() / "shim" / kLibraryName,                     // build tree
      folder.parent_path() / INLAY_LIBDIR / "inlay" / kLibraryName,     // any prefix
      fs::path(INLAY_PREFIX) / INLAY_LIBDIR / "inlay" / kLibraryName};  // as configured
  for (const fs::path &candidate : candidates) {
    if (::access(candidate.c_str(), R_OK) != 0) continue;
    std::string path = candidate.string();
    // ld.so(8): both separate the entries of LD_PRELOAD, and there is no way to quote them.
    if (path.find_first_of(" :") != std::string::npos) {
      return tl::make_unexpected(
          path + ": a space or colon in its path keeps it from being preloaded; move it");
    }
    if (const std::string why = loading_problem(path); !why.empty()) {
      return tl::make_unexpected(path + " " + why);
    }
    return path;
  }
  return tl::make_unexpected("libinlay.so is neither at " + candidates[0].string() + " nor at " +
                             candidates[1].string() + "; build or install it");
}

std::string loading_problem(const std::string &path) {
  const policy::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::strerror(errno);
  void *const page = ::mmap(nullptr, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd.get(), 0);
  if (page == MAP_FAILED) {
    return errno == EPERM ? "may not be executed there (a mount with noexec, NoExecPaths=)"
                          : std::strerror(errno);
  }
  ::munmap(page, 1);
  const auto image = read_elf(path, Imports::skip);
  if (!image) return "is damaged (" + image.error().message + "); install it again";
  if (image->bits != 64 || image->machine != own_machine())
    return "is for another machine; install it again";
  return {};
}

std::string preload_list(std::string_view current, std::string_view library) {
  std::string sanitizers;
  std::string others;
  while (!current.empty()) {
    std::size_t end = current.find_first_of(" :");
    std::string_view entry = current.substr(0, end);
    current.remove_prefix(end == std::string_view::npos ? current.size() : end + 1);
    if (entry.empty() || base_name(entry) == kLibraryName) continue;
    // Only those at the front: what stood behind another library worked there.
    if (others.empty() && is_sanitizer(entry)) {
      sanitizers.append(entry) += ':';
    } else {
      (others += ':').append(entry);
    }
  }
  return sanitizers + std::string(library) + others;
}

}  // namespace inlay::tools
