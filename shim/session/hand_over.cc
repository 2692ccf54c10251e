#include "shim/session/hand_over.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/session/holders.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/open_descriptors.h"
#include "shim/session/proc.h"
#include "shim/session/session.h"
#include "shim/session/spawn_actions.h"

namespace inlay::shim {
namespace {

constexpr char kNotGiven[] =
    "what is known of a connection cannot be given to the program executed";

bool impossible() noexcept { return arena_count() == 0 || boot::sandboxed(); }

}  // namespace

Slot *session_of(int fd) noexcept {
  std::uint64_t cookie = cookie_of(fd);
  return cookie == 0 ? nullptr : find_slot(cookie);
}

void HandOver::for_exec() noexcept {
  note_giving();
  if (impossible()) return;
  borrowed_ = in_foreign_process();
  bool wanted[kMaxArenas] = {};
  for_each_open_descriptor([&](int fd) {
    if (!borrowed_ && (descriptor_word(fd) == kUnmanaged || descriptor_word(fd) == kOwn)) return;
    if (!survives_exec(fd)) return;
    Slot *slot = session_of(fd);
    if (slot == nullptr) return;
    wanted[arena_of(*slot)] = true;
    if (borrowed_) mark(*slot, calling_process());
  });
  give(wanted, borrowed_);
}

void HandOver::for_spawn(const posix_spawn_file_actions_t *actions) noexcept {
  note_giving();
  if (impossible() || in_foreign_process()) return;
  bool wanted[kMaxArenas] = {};
  auto keep = [&](int fd) {
    Slot *slot = session_of(fd);
    if (slot == nullptr) return;
    wanted[arena_of(*slot)] = true;
    mark(*slot, kSpawning | this_thread());
  };
  for_each_open_descriptor([&](int fd) {
    std::uint64_t word = descriptor_word(fd);
    if (word != kUnmanaged && word != kOwn && survives_exec(fd)) keep(fd);
  });
  for_each_dup2(actions, keep);
  give(wanted, true);
}

void HandOver::spawned(pid_t child) noexcept {
  given_away_ = true;
  if (marked_ == 0) return;
  // What the child calls itself there it puts in place of the mark when it takes over.
  if (children_are_elsewhere()) marked_ = 0;
  replace_marks(participant(namespace_of(this_process()), static_cast<std::uint32_t>(child)));
}

void HandOver::spawned_last() noexcept {
  if (marked_ == 0) return;
  ProcPath path;
  path.before("/children").before(current_thread_id()).before("/proc/self/task/");
  // "12 34 ", oldest first.
  pid_t last = 0, number = 0;
  boot::in_own_table([&] {
    long file = kernel::call(SYS_openat, AT_FDCWD, kernel::word(path.text()), O_RDONLY | O_CLOEXEC);
    char text[256];
    for (long got; (got = kernel::call(SYS_read, file, kernel::word(text), sizeof text)) > 0;) {
      for (long i = 0; i < got; ++i) {
        if (text[i] == ' ') last = std::exchange(number, 0);
        if (text[i] >= '0' && text[i] <= '9') number = number * 10 + (text[i] - '0');
      }
    }
    if (file >= 0) kernel::close(static_cast<int>(file));
  });
  if (last != 0) spawned(last);
}

HandOver::~HandOver() {
  if (given_.count > 0) take_back();
  replace_marks(0);
}

void HandOver::take_back() noexcept {
  if (borrowed_) {
    for (unsigned i = 0; i < given_.count; ++i) kernel::close(given_.arenas[i].fd);
  } else {
    Doubt doubt;  // what is closed here names memory of this process
    for (unsigned i = 0; i < given_.count; ++i) close_own(given_.arenas[i].fd);
  }
  for (unsigned i = 0; !given_away_ && i < given_.count; ++i) settle_doubt(given_arenas_[i]);
}

// `shared`: this process, or the parent of this vfork child, goes on with the arenas: what it makes
// from now on is its own. So are another tree's.
void HandOver::give(const bool (&wanted)[kMaxArenas], bool shared) noexcept {
  for (unsigned arena = 0; arena < arena_count() && given_.count < kMaxInherited; ++arena) {
    if (!wanted[arena]) continue;
    ArenaDescriptor from = arena_descriptor(arena);
    long copy = from.fd < 0 ? -EBADF : kernel::call(SYS_fcntl, from.fd, F_DUPFD, from.fd);
    if (copy < 0 && from.fd >= 0) copy = kernel::call(SYS_fcntl, from.fd, F_DUPFD, 3);
    if (copy < 0) {
      report(nullptr, -1, policy::Event::notice, policy::Reason::inherited_unknown, kNotGiven);
      continue;
    }
    // So that a child another thread forks just now does not keep it.
    if (!borrowed_) set_descriptor_word(static_cast<int>(copy), kOwn);
    if (shared || is_foreign_arena(arena)) close_arena(arena);
    raise_doubt(arena);
    given_arenas_[given_.count] = arena;
    given_.arenas[given_.count++] = {static_cast<int>(copy), from.inode};
  }
  if (given_.count == 0) return replace_marks(0);
  given_.token = shared && !borrowed_ ? marked_ : 0;
  format_inheritance(given_, text_);
}

void HandOver::mark(Slot &slot, Participant holder) noexcept {
  marked_ = holder;
  Locked life(slot.life_lock);
  if (find_holder(slot, holder) == nullptr) add_descriptor(slot, holder);
}

void HandOver::replace_marks(Participant to) noexcept {
  if (marked_ == 0) return;
  for_each_slot([&](Slot &slot) {
    Holder *holder = find_holder(slot, marked_);
    if (holder == nullptr) return;
    Participant mark = marked_;
    if (to == 0) holder->descriptors.store(0, std::memory_order_release);
    holder->who.compare_exchange_strong(mark, to, std::memory_order_acq_rel);
  });
  marked_ = 0;
}

}  // namespace inlay::shim
