// A log of lines, one write each: to a file in a folder that nobody else may change, or to standard
// error, which systemd keeps in its journal.
#pragma once

#include <sys/stat.h>

#include <mutex>
#include <string>
#include <tl/expected.hpp>

#include "policy/trusted_file.h"

namespace inlay::identity::rpc {

class LineLog {
 public:
  // From now on to `file` (absolute; made 0640 when it is not there), or to standard error for "".
  // On an error, one line, all stays as it was.
  tl::expected<void, std::string> open(const std::string &file);

  // `line` ends with a line end. False: it could not be written, and is lost. Any thread.
  // Where the file has been moved away or removed, as logrotate does, it is made anew first.
  bool write(std::string line);

 private:
  struct Opened {
    policy::UniqueFd fd;  // empty: standard error
    struct stat status {};
  };
  static tl::expected<Opened, std::string> open_in(int folder, const std::string &name);
  bool follow();

  std::mutex mutex_;
  policy::UniqueFd folder_;
  std::string name_;
  Opened file_;
  bool torn_ = false;  // the last line was not written whole
};

}  // namespace inlay::identity::rpc
