#include "shim/session/hand_over.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/room.h"
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

void not_given() noexcept {
  report(nullptr, -1, policy::Event::notice, policy::Reason::inherited_unknown, kNotGiven);
}

// No other thread shares this table of descriptors: of all of a process's tasks there is one
// folder.
bool is_alone() noexcept {
  constexpr const char kTasks[] = "/proc/self/task";
  constexpr unsigned kOfOne = 3;  // links
  struct stat info {};
  return kernel::call(SYS_newfstatat, AT_FDCWD, kernel::word(kTasks), kernel::word(&info), 0) ==
             0 &&
         info.st_nlink == kOfOne;
}

// Nothing is put at this number or above in a child; what is there from before a limit was lowered
// stays.
int soft_limit() noexcept {
  rlimit limit{};
  if (kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, kernel::word(&limit)) != 0) return INT_MAX;
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur, INT_MAX));
}

// Calls visit(number, source) for each number that is open in the image, in ascending order.
template <typename F>
void for_each_spawned(const posix_spawn_file_actions_t *actions, F &&visit) noexcept {
  int next = 0;
  auto consider = [&](int number) {
    next = number + 1;
    SpawnSource source = spawn_source(actions, number);
    if (source.fd >= 0 && (source.is_copy || survives_exec(source.fd))) visit(number, source.fd);
  };
  auto copies_below = [&](int end) {
    for (int lowest = next; lowest < end;) {
      lowest = end;
      for_each_dup2(actions, [&](int, int to) {
        if (to >= next && to < lowest) lowest = to;
      });
      if (lowest < end) consider(lowest);
    }
  };
  for_each_open_descriptor([&](int fd) {
    copies_below(fd);
    if (fd >= next) consider(fd);
  });
  copies_below(INT_MAX);
}

}  // namespace

Slot *session_of(int fd) noexcept {
  std::uint64_t cookie = cookie_of(fd);
  return cookie == 0 ? nullptr : find_slot(cookie);
}

void HandOver::for_exec(Withhold &withhold) noexcept {
  note_giving();
  if (boot::sandboxed()) return;
  executes_ = true;
  borrowed_ = in_foreign_process();
  bool wanted[kMaxArenas] = {};
  for_each_open_descriptor([&](int fd) {
    if (!survives_exec(fd) || !is_protected(fd)) return;
    parcel_.add(fd, fd, borrowed_);
    Slot *slot = session_of(fd);
    if (slot == nullptr) return;
    wanted[arena_of(*slot)] = true;
    if (borrowed_) mark(*slot, calling_process());
  });
  if (parcel_.is_empty()) return;
  if (!parcel_.seal()) not_given();
  withhold.mark();
  // Another thread would find its standard streams gone before the image is.
  const int end = parcel_.end();
  if (end >= 0 && is_alone()) withhold.cover_standard_streams(end);
  if (end >= 0 && kernel::call(SYS_fcntl, end, F_SETFD, 0) == 0) given_.parcel = parcel_.named(end);
  give(wanted, borrowed_);
}

int HandOver::for_spawn(const posix_spawn_file_actions_t **actions) noexcept {
  note_giving();
  if (in_foreign_process()) return 0;
  bool wanted[kMaxArenas] = {};
  const int limit = soft_limit();
  int held_by = -1;  // the first number that can be the parcel
  for_each_spawned(*actions, [&](int number, int source) {
    if (!is_protected(source)) return;
    Slot *slot = session_of(source);
    if (slot != nullptr && number <= STDERR_FILENO) hand_on(*slot, source);
    if (boot::sandboxed()) return;
    if (held_by < 0 && number < limit) held_by = number;
    parcel_.add(number, source, false);
    if (slot == nullptr) return;
    wanted[arena_of(*slot)] = true;
    mark(*slot, kSpawning | this_thread());
  });
  if (parcel_.is_empty()) return 0;
  if (!parcel_.seal()) not_given();
  if (int end = parcel_.end(); end >= 0) {
    if (held_by < 0 && !actions_.add_dup2(end, held_by = end)) return ENOMEM;
    given_.parcel = parcel_.named(held_by);
  }
  if (!replace_actions(*actions, limit)) return ENOMEM;
  as_given_ = actions_.as_given();
  *actions = &as_given_;
  give(wanted, true);
  return 0;
}

// Each connection's number becomes the parcel before the program's actions move it about. One above
// the limit cannot: the actions copy the parcel instead, and it is closed behind them. Without a
// parcel what they made of it is closed behind them.
bool HandOver::replace_actions(const posix_spawn_file_actions_t *actions, int limit) noexcept {
  const int end = parcel_.end();
  bool have_room = true;
  auto replace = [&](int fd) {
    if (have_room && fd < limit && is_protected(fd)) have_room = actions_.add_dup2(end, fd);
  };
  if (end >= 0) {
    for_each_open_descriptor([&](int fd) {
      if (survives_exec(fd)) replace(fd);
    });
    for_each_dup2(actions, [&](int fd, int) {
      if (!survives_exec(fd)) replace(fd);
    });
  }
  auto stands_for = [&](int fd) { return end >= 0 && fd >= limit && is_protected(fd) ? end : fd; };
  have_room = have_room && actions_.add(actions, stands_for);
  if (end < 0) {
    for_each_spawned(actions, [&](int number, int source) {
      if (have_room && is_protected(source)) have_room = actions_.add_close(number);
    });
  } else {
    // What was close-on-exec is not any more.
    for_each_dup2(actions, [&](int fd, int) {
      bool is_left = spawn_source(actions, fd).fd == fd && !spawn_source(actions, fd).is_copy;
      if (have_room && fd < limit && is_left && !survives_exec(fd) && is_protected(fd)) {
        have_room = actions_.add_close(fd);
      }
    });
    for_each_open_descriptor([&](int fd) {
      if (fd < limit || spawn_source(actions, fd).fd != fd || !is_protected(fd)) return;
      have_room = have_room && actions_.add_close(fd);
    });
  }
  return have_room;
}

void HandOver::for_shell() noexcept {
  note_giving();
  if (arena_count() == 0 || boot::sandboxed() || in_foreign_process()) return;
  bool wanted[kMaxArenas] = {};
  for_each_open_descriptor([&](int fd) {
    if (!survives_exec(fd) || !is_protected(fd)) return;
    Slot *slot = session_of(fd);
    if (slot == nullptr) return;
    wanted[arena_of(*slot)] = true;
    mark(*slot, kSpawning | this_thread());
  });
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
  if (executes_) {
    parcel_.take_back([](int fd) { kernel::call(SYS_fcntl, fd, F_SETFD, 0); });
  }
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
    if (copy < 0 && from.fd >= 0) {
      boot::Room room;
      copy = kernel::call(SYS_fcntl, from.fd, F_DUPFD, from.fd);
    }
    if (copy < 0) {
      not_given();
      continue;
    }
    // So that a child another thread forks just now does not keep it.
    if (!borrowed_) set_descriptor_word(static_cast<int>(copy), kOwn);
    if (shared || is_foreign_arena(arena)) close_arena(arena);
    raise_doubt(arena);
    given_arenas_[given_.count] = arena;
    given_.arenas[given_.count++] = {static_cast<int>(copy), from.inode};
  }
  if (given_.count == 0) replace_marks(0);
  if (given_.is_empty()) return;
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
