// exec with managed descriptors: sessions live on in the image that is executed.
//
//   this image                                           the next image (take_over.cc)
//   HandOver: which sessions survive, whose arenas  -->  the constructor maps them, joins the
//   sessions copies of their descriptors, INLAY_ARENA             of the descriptors it finds,
//   forgets the rest
//
// What is handed over are whole arenas, not copies of slots: a session's sequence numbers must be
// the same memory for all who share it. The keys of other sessions in them come along. A forked
// child has always had them, and a process of the same user may read this one's memory anyway.
// Nobody else gets them: only an image the preload reaches, of the same user, without more
// privilege.
#pragma once

#include <spawn.h>

#include <cstdint>

#include "shim/arena/inheritance.h"

namespace inlay::shim {

class HandOver {
 public:
  HandOver() noexcept = default;
  // Takes back what was given: exec failed, or the spawned image has its own copy.
  ~HandOver();
  HandOver(const HandOver &) = delete;
  HandOver &operator=(const HandOver &) = delete;

  // exec of this process, which may be a vfork child.
  void for_exec() noexcept;
  // posix_spawn with these actions, which may be null; and its success.
  void for_spawn(const posix_spawn_file_actions_t *actions) noexcept;
  void spawned(pid_t child) noexcept;
  // The same where only the C library knows the child's number: it is this thread's youngest.
  void spawned_last() noexcept;

  // INLAY_ARENA for the next image; null when no session survives, or none can.
  const char *variable() const noexcept { return given_.count == 0 ? nullptr : text_; }

 private:
  void take_back() noexcept;
  void give(const bool (&wanted)[kMaxArenas], bool shared) noexcept;
  void mark(Slot &slot, Participant holder) noexcept;
  // Puts `to` in the place of the mark; 0: no holder.
  void replace_marks(Participant to) noexcept;

  Inheritance given_;
  unsigned given_arenas_[kMaxInherited] = {};
  bool given_away_ = false;  // another image has them now
  bool borrowed_ = false;    // a vfork child: the memory is its parent's
  Participant marked_ = 0;   // the holder that stands for the next image
  char text_[kInheritanceSize] = {};
};

// In the new image's constructor, once hooks work: `value` of INLAY_ARENA.
void take_over(const char *value) noexcept;

// The session of what the kernel says `fd` is, whatever its word says; null when there is none.
Slot *session_of(int fd) noexcept;

}  // namespace inlay::shim
