// Noticing that files have changed: by stat, once a second. Not by inotify, which says nothing of
// what is reached over a symbolic link, a remount or a network file system.
#pragma once

#include <string>
#include <vector>

#include "identity/file.h"

namespace inlay::identity::agent {

// A descriptor that becomes readable once a second: the time to look.
class LookTimer {
 public:
  LookTimer();
  ~LookTimer();
  LookTimer(const LookTimer &) = delete;
  LookTimer &operator=(const LookTimer &) = delete;
  int fd() const { return fd_; }  // -1: there was none to be had
  void rearm();                   // makes it wait for the next second

 private:
  int fd_;
};

class WatchedFiles {
 public:
  explicit WatchedFiles(std::vector<std::string> paths) : paths_(std::move(paths)) {}
  // Whether the files may have changed since the last call; true the first time. A file that
  // changed moments ago counts as changed again, for its stamp may not tell the next change.
  bool look();

 private:
  std::vector<std::string> paths_;
  std::vector<FileStamp> stamps_;
  bool settled_ = false;
};

}  // namespace inlay::identity::agent
