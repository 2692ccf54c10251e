// A log of lines, one write each: to a file in a folder that nobody else may change, or to standard
// error, which systemd keeps in its journal.
#pragma once

#include <mutex>
#include <string>
#include <tl/expected.hpp>

#include "policy/trusted_file.h"

namespace inlay::policy {

class LineLog {
 public:
  // From now on to `file` (absolute; made 0640 when it is not there), or to standard error for "".
  // The same file is opened anew: it may have been moved away. On an error, one line, all stays as
  // it was.
  tl::expected<void, std::string> open(const std::string &file);

  // `line` ends with a line end. False: it could not be written, and is lost. Any thread.
  bool write(std::string line);

 private:
  std::mutex mutex_;
  UniqueFd file_;      // empty: standard error
  bool torn_ = false;  // the last line was not written whole
};

}  // namespace inlay::policy
