#include "shim/boot/clock.h"

#include <elf.h>
#include <sys/auxv.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "shim/arena/kernel.h"

namespace inlay::shim::boot {
namespace {

#if defined(__aarch64__)
constexpr const char *kName = "__kernel_clock_gettime";
#else
constexpr const char *kName = "__vdso_clock_gettime";
#endif

using Clock = long (*)(clockid_t, timespec *);  // 0 or a negative errno
constinit std::atomic<Clock> g_clock{nullptr};

// The dynamic section of vdso(7): the kernel maps it whole, and its addresses are offsets.
struct Vdso {
  const char *base = nullptr, *strings = nullptr;
  const Elf64_Sym *symbols = nullptr;
  const std::uint32_t *hash = nullptr, *gnu_hash = nullptr;

  template <typename T>
  const T *at(std::uint64_t offset) const noexcept {
    return reinterpret_cast<const T *>(base + offset);
  }

  bool find() noexcept {
    base = reinterpret_cast<const char *>(getauxval(AT_SYSINFO_EHDR));
    if (base == nullptr) return false;
    const auto *header = at<Elf64_Ehdr>(0);
    const auto *segments = at<Elf64_Phdr>(header->e_phoff);
    const Elf64_Dyn *entry = nullptr;
    for (unsigned i = 0; i < header->e_phnum; ++i) {
      if (segments[i].p_type == PT_DYNAMIC) entry = at<Elf64_Dyn>(segments[i].p_offset);
    }
    for (; entry != nullptr && entry->d_tag != DT_NULL; ++entry) {
      if (entry->d_tag == DT_STRTAB) strings = at<char>(entry->d_un.d_ptr);
      if (entry->d_tag == DT_SYMTAB) symbols = at<Elf64_Sym>(entry->d_un.d_ptr);
      if (entry->d_tag == DT_HASH) hash = at<std::uint32_t>(entry->d_un.d_ptr);
      if (entry->d_tag == DT_GNU_HASH) gnu_hash = at<std::uint32_t>(entry->d_un.d_ptr);
    }
    return strings != nullptr && symbols != nullptr;
  }

  std::uint32_t symbol_count() const noexcept {
    if (hash != nullptr) return hash[1];
    if (gnu_hash == nullptr) return 0;
    const std::uint32_t buckets = gnu_hash[0], first = gnu_hash[1];
    const std::uint32_t *bucket = gnu_hash + 4 + 2 * gnu_hash[2];
    const std::uint32_t *chain = bucket + buckets;
    std::uint32_t last = *std::max_element(bucket, chain);
    if (last < first) return first;
    while ((chain[last - first] & 1) == 0) ++last;  // 1: the last of its bucket
    return last + 1;
  }
};

}  // namespace

void bind_clock() noexcept {
  Vdso vdso;
  if (!vdso.find()) return;
  for (std::uint32_t i = 0, count = vdso.symbol_count(); i < count; ++i) {
    const Elf64_Sym &symbol = vdso.symbols[i];
    if (symbol.st_shndx == SHN_UNDEF || std::strcmp(vdso.strings + symbol.st_name, kName) != 0)
      continue;
    g_clock.store(
        reinterpret_cast<Clock>(reinterpret_cast<std::uintptr_t>(vdso.base) + symbol.st_value),
        std::memory_order_release);
    return;
  }
}

int read_clock(clockid_t clock, timespec *time) noexcept {
  const Clock known = g_clock.load(std::memory_order_acquire);
  const long result = known != nullptr ? known(clock, time)
                                       : kernel::call(SYS_clock_gettime, clock, kernel::word(time));
  if (result == 0) return 0;
  errno = static_cast<int>(-result);
  return -1;
}

}  // namespace inlay::shim::boot
