// Files written so that a reader of any of them, at any moment, finds an old or a new one whole.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::tools {

class OutputFolder {
 public:
  // Makes the folder and its parents where they are missing, the last with `mode`; waits until no
  // other command holds it. The error is one line.
  static tl::expected<OutputFolder, std::string> open(const std::string &path, mode_t mode);
  OutputFolder(OutputFolder &&other) noexcept;
  OutputFolder &operator=(OutputFolder &&) = delete;
  ~OutputFolder();  // takes away what was put and not published

  bool has(const std::string &name) const;
  // Writes a file under a temporary name. With `keep_owner`, an existing file's owner, group and
  // (unless that lets others at it) mode carry over: a service must be able to read its key after a
  // renewal as before.
  tl::expected<void, std::string> put(const std::string &name, std::string_view bytes, mode_t mode,
                                      bool keep_owner = false);
  // Gives everything put its name, in the order it was put.
  tl::expected<void, std::string> publish();

 private:
  struct Pending {
    std::string temporary;
    std::string name;
  };
  OutputFolder(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string complaint(const std::string &name, int error) const;

  std::string path_;
  int fd_;  // of the folder, locked
  std::vector<Pending> pending_;
};

}  // namespace inlay::tools
