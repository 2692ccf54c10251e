#include "tools/snapshot_fd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "policy/snapshot.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3
#endif

namespace inlay::tools {
namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

tl::unexpected<std::string> failed(const char *what) {
  return tl::make_unexpected(fmt::format("{}: {}; the policy cannot be handed to the program", what,
                                         std::strerror(errno)));
}

}  // namespace

tl::expected<std::string, std::string> make_snapshot(const policy::Policy &policy) {
  std::string block = policy::serialize(policy);
  // Where vm.memfd_noexec is 2 there is no memfd without MFD_NOEXEC_SEAL.
  int fd = ::memfd_create("inlay-snapshot", MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = ::memfd_create("inlay-snapshot", MFD_ALLOW_SEALING);
  if (fd < 0) return failed("memfd_create");
  // Under a limit of fewer descriptors it stays where it is.
  int high = ::fcntl(fd, F_DUPFD, kFirstSnapshotFd);
  if (high >= 0) {
    ::close(fd);
    fd = high;
  }
  std::size_t done = 0;
  while (done < block.size()) {
    ssize_t written = ::write(fd, block.data() + done, block.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("writing a memfd");
    done += static_cast<std::size_t>(written);
  }
  struct stat status {};
  if (::fcntl(fd, F_ADD_SEALS, kSeals) != 0) return failed("sealing a memfd");
  if (::fstat(fd, &status) != 0) return failed("fstat of a memfd");
  return fmt::format("{}:{}", fd, status.st_ino);
}

}  // namespace inlay::tools
