// An image without hooks would write into the records of managed descriptors in the clear. None
// inherits them; other processes that have them go on. 0, 1 and 2 stay open there, as sockets that
// are shut, so that no file it opens is taken for one of them. An image the preload reaches is
// given them otherwise (hand_over.h).
#pragma once

#include <spawn.h>

#include <cstdint>

namespace inlay::shim {

// The records of `fd` are inlay's, or nobody knows whose: nothing without hooks may have it.
bool is_protected(int fd) noexcept;

class Withhold {
 public:
  Withhold() noexcept = default;
  // exec failed, or the image is spawned: what this process has is as it was.
  ~Withhold();
  Withhold(const Withhold &) = delete;
  Withhold &operator=(const Withhold &) = delete;

  // Makes them close-on-exec: in this process, which may be a vfork child.
  void mark() noexcept;
  // Of those, 0 to 2 become sockets that are shut, or what `end` is. Once what they owe is flushed.
  void cover_standard_streams() noexcept;
  void cover_standard_streams(int end) noexcept;
  // False when the file actions give the image one of them: then it may not be spawned.
  static bool allows(const posix_spawn_file_actions_t *actions) noexcept;

 private:
  // Beyond so many they stay close-on-exec should exec fail.
  static constexpr unsigned kRemembered = 256;
  void cover(int fd, int with) noexcept;

  int marked_[kRemembered];
  unsigned count_ = 0;
  int covered_[3] = {-1, -1, -1};  // copies of what was there
};

}  // namespace inlay::shim
