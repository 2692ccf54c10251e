// exec of an image the preload does not reach, with managed descriptors: it would write into the
// records in the clear. It does not get them; other processes that have them go on. 0, 1 and 2 stay
// open there, as sockets that are shut, so that no file it opens is taken for one of them.
#pragma once

#include <spawn.h>

#include <cstdint>

namespace inlay::shim {

class Withhold {
 public:
  Withhold() noexcept = default;
  // exec failed, or the image is spawned: what this process has is as it was.
  ~Withhold();
  Withhold(const Withhold &) = delete;
  Withhold &operator=(const Withhold &) = delete;

  // Makes them close-on-exec: in this process, which may be a vfork child.
  void mark() noexcept;
  // Of those, 0 to 2 become something else. Once what they owe is flushed.
  void cover_standard_streams() noexcept;
  // False when the file actions give the image one of them: then it may not be spawned.
  static bool allows(const posix_spawn_file_actions_t *actions) noexcept;

 private:
  // Beyond so many they stay close-on-exec should exec fail.
  static constexpr unsigned kRemembered = 256;
  int marked_[kRemembered];
  unsigned count_ = 0;
  int covered_[3] = {-1, -1, -1};  // copies of what was there
};

}  // namespace inlay::shim
