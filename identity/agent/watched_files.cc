#include "identity/agent/watched_files.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace inlay::identity::agent {

LookTimer::LookTimer() : fd_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
  const itimerspec every_second{.it_interval = {1, 0}, .it_value = {1, 0}};
  if (fd_ >= 0) timerfd_settime(fd_, 0, &every_second, nullptr);
}

LookTimer::~LookTimer() {
  if (fd_ >= 0) close(fd_);
}

void LookTimer::rearm() {
  std::uint64_t count = 0;
  while (fd_ >= 0 && read(fd_, &count, sizeof count) > 0) {
  }
}

bool WatchedFiles::look() {
  std::vector<FileStamp> stamps;
  stamps.reserve(paths_.size());
  for (const std::string &path : paths_) stamps.push_back(FileStamp::of(path));
  if (settled_ && stamps == stamps_) return false;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  settled_ = std::none_of(stamps.begin(), stamps.end(),
                          [&](const FileStamp &stamp) { return stamp.recent(now); });
  stamps_ = std::move(stamps);
  return true;
}

}  // namespace inlay::identity::agent
