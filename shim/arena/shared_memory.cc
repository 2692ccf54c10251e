#include "shim/arena/shared_memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>

#include "shim/arena/kernel.h"
#include "shim/boot/sandbox.h"
#include "shim/session/lifetime.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace inlay::shim {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

bool failed(long mapped) noexcept { return mapped < 0 && mapped > -4096; }

// After mlockall(MCL_FUTURE) a new mapping is all made present at once, unless nobody may touch it
// yet: an arena is large, and mostly never used.
bool unlock(long base, std::size_t size) noexcept {
  kernel::call(SYS_munlock, base, static_cast<long>(size));
  return kernel::call(SYS_mprotect, base, static_cast<long>(size), PROT_READ | PROT_WRITE) == 0;
}

std::byte *map(int fd, std::size_t size, void *at) noexcept {
  const auto length = static_cast<long>(size);
  const int flags = MAP_SHARED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
  if (boot::sandboxed()) {  // in as few system calls as can be: the filter may know no others
    long mapped = kernel::call(SYS_mmap, kernel::word(at), length, PROT_READ | PROT_WRITE,
                               flags | (at != nullptr ? MAP_FIXED : 0), fd, 0);
    if (failed(mapped)) return nullptr;
    kernel::call(SYS_madvise, mapped, length, MADV_DONTDUMP);
    return reinterpret_cast<std::byte *>(mapped);
  }
  long base = kernel::call(SYS_mmap, 0, length, PROT_NONE, flags, fd, 0);
  if (failed(base)) return nullptr;
  if (!unlock(base, size)) {
    kernel::call(SYS_munmap, base, length);
    return nullptr;
  }
  kernel::call(SYS_madvise, base, length, MADV_DONTDUMP);
  if (at != nullptr) {
    // In one step: other threads may look at what was there.
    long moved = kernel::call(SYS_mremap, base, length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
                              kernel::word(at));
    if (failed(moved)) {
      kernel::call(SYS_munmap, base, length);
      return nullptr;
    }
    base = moved;
  }
  return reinterpret_cast<std::byte *>(base);
}

// Beyond the limit on file sizes ftruncate would not only fail, but raise SIGXFSZ.
bool may_be_as_large(std::size_t size) noexcept {
  rlimit limit{};
  return kernel::call(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, kernel::word(&limit)) == 0 &&
         limit.rlim_cur >= size;
}

bool inode_of(int fd, std::uint64_t *inode) noexcept {
  struct stat info {};
  if (kernel::call(SYS_fstat, fd, kernel::word(&info)) != 0) return false;
  *inode = info.st_ino;
  return true;
}

int make_memfd(std::size_t size) noexcept {
  if (boot::sandboxed() || !may_be_as_large(size)) return -1;
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const char *name = "inlay-arena";
  // Where vm.memfd_noexec is 2 there is no memfd without MFD_NOEXEC_SEAL; old kernels do not know
  // it.
  long fd = kernel::call(SYS_memfd_create, kernel::word(name), kFlags | MFD_NOEXEC_SEAL);
  if (fd == -EINVAL) fd = kernel::call(SYS_memfd_create, kernel::word(name), kFlags);
  if (fd < 0) return -1;
  long sized = -EINTR;
  while (sized == -EINTR) sized = kernel::call(SYS_ftruncate, fd, static_cast<long>(size));
  if (sized == 0 && kernel::call(SYS_fcntl, fd, F_ADD_SEALS, kSeals) == 0) {
    int own = make_own(static_cast<int>(fd));
    if (own >= 0) return own;
  }
  kernel::close(static_cast<int>(fd));
  return -1;
}

}  // namespace

SharedMemory make_shared_memory(std::size_t size, void *at, bool may_be_anonymous) noexcept {
  SharedMemory memory;
  memory.fd = make_memfd(size);
  if (memory.fd >= 0 && inode_of(memory.fd, &memory.inode)) {
    memory.base = map(memory.fd, size, at);
    if (memory.base != nullptr) return memory;
  }
  close_own(memory.fd);
  return {.base = may_be_anonymous ? map(-1, size, at) : nullptr};
}

bool is_shared_memory(int fd, std::size_t size, std::uint64_t *inode) noexcept {
  struct stat info {};
  if (fd < 0 || kernel::call(SYS_fstat, fd, kernel::word(&info)) != 0) return false;
  if (!S_ISREG(info.st_mode) || info.st_size != static_cast<off_t>(size) ||
      static_cast<long>(info.st_uid) != kernel::call(SYS_geteuid)) {
    return false;
  }
  *inode = info.st_ino;
  long seals = kernel::call(SYS_fcntl, fd, F_GET_SEALS);
  return seals >= 0 && (seals & kSeals) == kSeals;
}

bool is_shared_memory(int fd, std::uint64_t inode, std::size_t size) noexcept {
  std::uint64_t found = 0;
  return is_shared_memory(fd, size, &found) && found == inode;
}

SharedMemory map_inherited(int fd, std::uint64_t inode, std::size_t size, void *at) noexcept {
  SharedMemory memory;
  if (!is_shared_memory(fd, inode, size)) return memory;
  // In this order: what `at` replaces is gone when the mapping is made.
  memory.fd = make_own(fd);
  if (memory.fd < 0) return memory;
  memory.inode = inode;
  memory.base = map(memory.fd, size, at);
  return memory;
}

}  // namespace inlay::shim
