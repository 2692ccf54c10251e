// Opening a file only when nobody else may change what it says: the file and every folder passed
// on the way to it, through symbolic links too, must be writable by trusted users alone.
//
// Trusted are root, the effective user and `owners`. For each folder and the file:
// - its owner is trusted (an owner may always grant himself write access). On a read-only mount an
//   owner without a mapping in this user namespace will do.
// - neither group nor others may write. POSIX ACLs show in the group bits. Two exceptions: a sticky
//   folder, where an entry can be replaced by its owner only, if the entry itself (a link included)
//   has a trusted owner; and a read-only mount, where nobody can write: Kubernetes mounts its
//   volumes 0777 and read-only.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::policy {

class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd &&other) noexcept : fd_(other.release()) {}
  UniqueFd &operator=(UniqueFd &&other) noexcept;
  ~UniqueFd();
  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept;

 private:
  int fd_;
};

struct Trust {
  uid_t self;                     // effective user
  bool self_is_one = true;        // false: without a mapping, as others are (user_namespace.h)
  uid_t unmapped;                 // what the kernel shows for owners without a mapping
  std::span<const uid_t> owners;  // further ones
  static Trust current(std::span<const uid_t> owners);
};

struct Node {
  uid_t owner = 0;
  mode_t mode = 0;         // st_mode
  bool read_only = false;  // of its mount
};

// What is wrong with a folder or file, "" when nothing: a sentence without the path.
std::string distrust(const Trust &trust, const Node &node);

struct TrustedFile {
  UniqueFd fd;       // O_RDONLY, close-on-exec; a regular file
  struct stat stat;  // of what was opened
};

// Everything is opened once and judged by its descriptor: what was judged is what is read. The
// error is one line without the name of `path`; it names the folder it is about.
tl::expected<TrustedFile, std::string> open_trusted(const std::string &path,
                                                    std::span<const uid_t> owners);

// A folder (O_PATH) in which nobody else may make, rename or remove anything.
tl::expected<UniqueFd, std::string> open_trusted_folder(const std::string &path,
                                                        std::span<const uid_t> owners);

}  // namespace inlay::policy
