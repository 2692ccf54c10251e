#include "identity/agent/executable_digest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <vector>

#include "identity/openssl.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

using DigestContext = std::unique_ptr<EVP_MD_CTX, OpensslDelete<EVP_MD_CTX_free>>;
using DigestMethod = std::unique_ptr<EVP_MD, OpensslDelete<EVP_MD_free>>;

constexpr std::int64_t kSecond = 1'000'000'000;
// File systems keep times in ticks of up to two seconds (identity/file.h): a file changed this
// recently may change again and look the same.
constexpr std::int64_t kTick = 2 * kSecond;

std::int64_t nanoseconds(const timespec &time) {
  return std::int64_t{time.tv_sec} * kSecond + time.tv_nsec;
}

tl::expected<std::string, std::string> sha256_of(int fd, std::uint64_t size) {
  DigestMethod method(EVP_MD_fetch(library_context(), "SHA256", nullptr));
  DigestContext context(EVP_MD_CTX_new());
  if (!method || !context || EVP_DigestInit_ex2(context.get(), method.get(), nullptr) != 1) {
    return tl::unexpected<std::string>("out of memory");
  }
  std::vector<unsigned char> buffer(256 * 1024);
  std::uint64_t done = 0;
  for (;;) {
    ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return tl::unexpected(fmt::format("its executable cannot be read: errno {}", errno));
    if (got == 0) break;
    done += static_cast<std::uint64_t>(got);
    if (done > size) break;
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(got));
  }
  if (done != size) return tl::unexpected<std::string>("its executable changed while it was read");
  std::array<unsigned char, 32> digest{};
  if (EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) != 1) {
    return tl::unexpected<std::string>("out of memory");
  }
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

tl::expected<ExecutableVersion, std::string> version_of(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    return tl::unexpected<std::string>("its executable cannot be looked at");
  }
  return ExecutableVersion{
      .device = (std::uint64_t{major(status.st_dev)} << 32) | minor(status.st_dev),
      .inode = status.st_ino,
      .size = static_cast<std::uint64_t>(status.st_size),
      .modified_ns = nanoseconds(status.st_mtim),
      .changed_ns = nanoseconds(status.st_ctim)};
}

}  // namespace

tl::expected<std::string, std::string> ExecutableDigests::digest(const Workload &workload) {
  return digest_of(fmt::format("/proc/{}/exe", workload.pid), workload.executable_device,
                   workload.executable_inode);
}

tl::expected<std::string, std::string> ExecutableDigests::digest_of(const std::string &path,
                                                                    std::uint64_t device,
                                                                    std::uint64_t inode) {
  policy::UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return tl::unexpected<std::string>("its executable cannot be opened");
  auto version = version_of(file.get());
  if (!version) return tl::unexpected(version.error());
  if (version->device != device || version->inode != inode) {
    return tl::unexpected<std::string>("it has executed another program since it asked");
  }
  {
    std::lock_guard lock(mutex_);
    auto found = known_.find(*version);
    if (found != known_.end()) return found->second;
  }
  if (version->size > kMaxHashedExecutable) {
    return tl::unexpected<std::string>("its executable is larger than 1 GiB");
  }
  auto digest = sha256_of(file.get(), version->size);
  if (!digest) return digest;
  auto after = version_of(file.get());
  if (!after || *after != *version) {
    return tl::unexpected<std::string>("its executable changed while it was read");
  }
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  std::int64_t age = nanoseconds(now) - version->changed_ns;
  if (age > kTick || age < -kTick) {
    std::lock_guard lock(mutex_);
    // Whoever starts ever new programs must not fill the memory; the next reading puts back what
    // is in use.
    if (known_.size() >= kMostKept) known_.clear();
    known_.emplace(*version, *digest);
  }
  return digest;
}

}  // namespace inlay::identity::agent
