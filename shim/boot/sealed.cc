#include "shim/boot/sealed.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "shim/arena/kernel.h"

namespace inlay::shim::boot {
namespace {

constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

SealedMemory::SealedMemory(int fd, std::uint64_t inode) noexcept {
  struct stat info {};
  if (kernel::call(SYS_fstat, fd, kernel::word(&info)) != 0 || !S_ISREG(info.st_mode) ||
      info.st_size <= 0 || (inode != 0 && info.st_ino != inode)) {
    return;
  }
  const long seals = kernel::call(SYS_fcntl, fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) return;
  if (info.st_uid != 0 && static_cast<long>(info.st_uid) != kernel::call(SYS_geteuid)) return;
  const long base = kernel::call(SYS_mmap, 0, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (base < 0 && base > -4096) return;
  base_ = reinterpret_cast<const char *>(base);
  size_ = static_cast<std::size_t>(info.st_size);
}

SealedMemory::~SealedMemory() {
  if (base_ != nullptr) kernel::call(SYS_munmap, kernel::word(base_), static_cast<long>(size_));
}

}  // namespace inlay::shim::boot
