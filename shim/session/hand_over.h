// exec with managed descriptors: sessions live on in the image that is executed.
//
//   this image                                           the next image (take_over.cc)
//   HandOver: which sessions survive, whose arenas  -->  the constructor maps them, takes the
//   copies of the arenas' descriptors, a parcel          connections out of the parcel, joins their
//   of the connections (parcel.h), INLAY_ARENA           sessions, forgets the rest
//
// What is handed over are whole arenas, not copies of slots: a session's sequence numbers must be
// the same memory for all who share it. The keys of other sessions in them come along. A forked
// child has always had them, and a process of the same user may read this one's memory anyway.
// Nobody else gets them: only an image the preload reaches, of the same user, without more
// privilege. Where the loader cannot load inlay there after all, it has the arenas and no
// connection.
#pragma once

#include <spawn.h>

#include <cstdint>

#include "shim/arena/inheritance.h"
#include "shim/session/parcel.h"
#include "shim/session/spawn_actions.h"
#include "shim/session/withhold.h"

namespace inlay::shim {

class HandOver {
 public:
  HandOver() noexcept = default;
  // Takes back what was given: exec failed, or the spawned image has its own copy.
  ~HandOver();
  HandOver(const HandOver &) = delete;
  HandOver &operator=(const HandOver &) = delete;

  // exec of this process, which may be a vfork child. What cannot be given is withheld.
  void for_exec(Withhold &withhold) noexcept;
  // posix_spawn with these actions, which may be null: 0, and `actions` is what to spawn with while
  // this exists; or an error. And its success.
  int for_spawn(const posix_spawn_file_actions_t **actions) noexcept;
  void spawned(pid_t child) noexcept;
  // The same where the C library starts the shell, and only it knows the child's number: it is this
  // thread's youngest. The connections stay open there: no hook sees how it starts.
  void for_shell() noexcept;
  void spawned_last() noexcept;

  // INLAY_ARENA for the next image; null when no session survives, or none can.
  const char *variable() const noexcept { return given_.is_empty() ? nullptr : text_; }

 private:
  bool replace_actions(const posix_spawn_file_actions_t *actions, int limit) noexcept;
  void take_back() noexcept;
  // Copies of the arenas that are wanted.
  void give(const bool (&wanted)[kMaxArenas], bool shared) noexcept;
  void mark(Slot &slot, Participant holder) noexcept;
  // Puts `to` in the place of the mark; 0: no holder.
  void replace_marks(Participant to) noexcept;

  Inheritance given_;
  Parcel parcel_;
  SpawnActions actions_;
  posix_spawn_file_actions_t as_given_{};
  unsigned given_arenas_[kMaxInherited] = {};
  bool given_away_ = false;  // another image has them now
  bool executes_ = false;    // this process, not a child of posix_spawn()
  bool borrowed_ = false;    // a vfork child: the memory is its parent's
  Participant marked_ = 0;   // the holder that stands for the next image
  char text_[kInheritanceSize] = {};
};

// In the new image's constructor, once hooks work; its parcel is unpacked.
void take_over(const Inheritance &inherited) noexcept;

// The session of what the kernel says `fd` is, whatever its word says; null when there is none.
Slot *session_of(int fd) noexcept;

}  // namespace inlay::shim
