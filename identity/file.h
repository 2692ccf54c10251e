// Reading small files from inside somebody else's process: no stream, no locale, no waiting.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity {

// What tells one version of a file from the next, without opening it. A path that cannot be looked
// at has a stamp too: its errno.
struct FileStamp {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  timespec modified{};
  timespec changed{};
  int error = 0;

  // Follows symbolic links. One system call, no descriptor.
  static FileStamp of(const std::string &path) noexcept;
  bool operator==(const FileStamp &other) const noexcept;
  // Changed so recently (2 s) that another change might leave the same stamp: file systems keep
  // times in ticks of up to two seconds.
  bool recent(const timespec &now) const noexcept;
};

// A file's bytes and what fstat said of the descriptor they came from. Cleansed when it goes.
struct FileContent {
  std::string bytes;
  struct stat status {};

  FileContent() = default;
  FileContent(FileContent &&) = default;
  FileContent &operator=(FileContent &&) = delete;
  ~FileContent();
};

// The error is a reason alone ("No such file or directory"), in English whatever the locale.
// Regular files only: a FIFO or a device could stall the caller.
tl::expected<FileContent, std::string> read_file(const std::string &path, std::size_t limit);

// How read_file() above opens, for those who share their process with a program: `run` calls what
// it is given, where no descriptor number of the program's is taken meanwhile; `close` closes
// there.
struct OpeningApart {
  void (*run)(void (*act)(void *), void *argument) noexcept;
  void (*close)(int fd) noexcept;
};
// At boot.
void open_files_apart(OpeningApart how) noexcept;

// The same of a file that is open already, from its beginning. `fd` stays the caller's.
tl::expected<FileContent, std::string> read_file(int fd, std::size_t limit);

// Who may keep a private key where: 0600, or 0640 with a group this process is in (execute bits and
// any bit for others refused), owned by root or the effective user. Empty when it is so, else what
// is wrong and what to do, as the end of a sentence that began with the file's name.
std::string key_permission_complaint(const struct stat &status);

}  // namespace inlay::identity
