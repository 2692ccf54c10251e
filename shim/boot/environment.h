// What a program started from here gets: its environment with inlay's variables back in it, and a
// judgement whether the preload can reach it at all. Nothing here allocates from the host's malloc;
// exec may be called in a vfork child.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "shim/boot/heap.h"
#include "shim/session/cancel.h"

namespace inlay::shim::boot {

// Copies what is inlay's from the environment the process was started with. Once, at boot.
void remember_environment(char *const environment[]) noexcept;
// This library's path, as the loader knows it; null before that.
const char *library_path() noexcept;

enum class Target : unsigned char {
  reachable,     // or not there, or nothing that can be executed: the kernel will say
  static_image,  // no dynamic loader
  privileged,    // setuid, setgid or file capabilities, or this process is not its real user: the loader
                 // drops the preload
  foreign,       // another C library or machine, or written in Go
  unknown,       // it could not be read
  no_library,    // libinlay.so is not there for it to load: the loader would only say so, and start it
  no_room,       // it may be so for want of memory (RLIMIT_AS), and in a seccomp filter connections go open
};

// INLAY_STRICT=1: what the preload cannot reach does not start.
void remember_strictness(bool strict) noexcept;

// It looks as if an exec of it would succeed: the file is there, and for the effective user to execute.
bool may_be_executed(const char *path) noexcept;
// False: exec with them is known to fail with E2BIG.
bool fits(char *const arguments[], char *const environment[]) noexcept;

Target judge_target(const char *path) noexcept;
Target judge_target_at(int directory, const char *path, int flags) noexcept;
// As execvp finds it.
Target judge_target_in_path(const char *file) noexcept;
// Logs a target the preload cannot reach. False: it must not start (INLAY_STRICT=1).
bool may_start(Target target, const char *path) noexcept;

// INLAY_SNAPSHOT and INLAY_ARENA are messages to one image alone: the program does not see them.
void hide_messages(char **environment) noexcept;

// --- the repair ---------------------------------------------------------------------------------

struct Repair {
  std::size_t entries = 0;  // room for the pointers, terminating null included
  std::size_t text = 0;     // room for strings made anew
};
// `message`: "INLAY_ARENA=..." for the image to be executed, in place of any there; may be null.
// Entries is 0 when the environment may be used as it is.
Repair plan_repair(char *const environment[], const char *message) noexcept;
void repair(char *const environment[], const char *message, char **entries, char *text) noexcept;

// Runs `start(environment)` with the repaired one. Small ones live on the stack. Where there is no memory
// for a large one: -1 and ENOMEM: nothing may be started without what protects it.
template <typename Start>
int with_repaired(char *const environment[], const char *message, Start start) {
  constexpr std::size_t kOnStack = 8192;  // bytes: thread stacks may be 16 KiB
  Repair plan = plan_repair(environment, message);
  if (plan.entries == 0) return start(environment);
  std::size_t size = plan.entries * sizeof(char *) + plan.text;
  char *large = size > kOnStack ? static_cast<char *>(allocate(size)) : nullptr;
  char *room = large;
  if (large == nullptr) {
    if (size > kOnStack) {
      errno = ENOMEM;
      return -1;
    }
    room = static_cast<char *>(__builtin_alloca_with_align(size, 64));
  }
  auto **entries = reinterpret_cast<char **>(room);
  repair(environment, message, entries, room + plan.entries * sizeof(char *));
  int result = start(entries);
  release(large);
  return result;
}

// Runs `start()` while `environ` is the repaired one: for what the C library executes by itself.
// What another thread adds to the environment meanwhile may be lost to the program. `message`: as
// above.
template <typename Start>
void with_own_environment(const char *message, Start start) {
  struct Lent {
    char **own, **lent;
    Start *start;
    static void give_back(Lent *one) {
      if (environ == one->lent) environ = one->own;
    }
  };
  with_repaired(environ, message, [&](char *const repaired[]) {
    Lent lent{environ, const_cast<char **>(repaired), &start};
    environ = lent.lent;
    cancellable<Lent>(
        [](Lent *one) {
          (*one->start)();
          return 0L;
        },
        Lent::give_back, &lent);
    Lent::give_back(&lent);
    return 0;
  });
}

}  // namespace inlay::shim::boot
