// What posix_spawn will do with descriptors, before it does; and actions made of the program's.
#pragma once

#include <fcntl.h>
#include <spawn.h>

#include <algorithm>
#include <cstddef>

#include "shim/arena/kernel.h"
#include "shim/boot/heap.h"

namespace inlay::shim {

inline bool survives_exec(int fd) noexcept {
  long flags = kernel::call(SYS_fcntl, fd, F_GETFD);
  return flags >= 0 && (flags & FD_CLOEXEC) == 0;
}

// glibc's posix_spawn_file_actions_t keeps these (posix/spawn_int.h), the same since 2.1 but for
// kinds added at the end.
struct SpawnAction {
  enum Kind : int { close, dup2, open, chdir, fchdir, close_from } kind;
  union {
    int fd;
    struct {
      int fd;
      int to;
    } dup2_action;
    struct {
      int fd;
      char *path;
      int flags;
      mode_t mode;
    } open_action;
  };
};

static_assert(sizeof(SpawnAction) == 32);

// Calls visit(fd, to) for each descriptor that is copied, which takes off its close-on-exec.
template <typename F>
void for_each_dup2(const posix_spawn_file_actions_t *actions, F &&visit) noexcept {
  if (actions == nullptr) return;
  const auto *list = reinterpret_cast<const SpawnAction *>(actions->__actions);
  for (int i = 0; i < actions->__used; ++i) {
    if (list[i].kind == SpawnAction::dup2) visit(list[i].dup2_action.fd, list[i].dup2_action.to);
  }
}

// What `number` names in the image: a descriptor of this process, -1 where it is none; and whether
// it was copied, which takes off its close-on-exec.
struct SpawnSource {
  int fd;
  bool is_copy;
};
inline SpawnSource spawn_source(const posix_spawn_file_actions_t *actions, int number) noexcept {
  SpawnSource source{number, false};
  const auto *list =
      actions == nullptr ? nullptr : reinterpret_cast<const SpawnAction *>(actions->__actions);
  for (int i = list == nullptr ? 0 : actions->__used; i-- > 0;) {
    const SpawnAction &action = list[i];
    if (action.kind == SpawnAction::dup2 && action.dup2_action.to == source.fd) {
      source = {action.dup2_action.fd, true};
    } else if ((action.kind == SpawnAction::close && action.fd == source.fd) ||
               (action.kind == SpawnAction::open && action.open_action.fd == source.fd) ||
               (action.kind == SpawnAction::close_from && action.fd <= source.fd)) {
      return {-1, false};
    }
  }
  return source;
}

// The program's actions with others before and behind them. Not in a vfork child: it allocates.
class SpawnActions {
 public:
  SpawnActions() noexcept = default;
  ~SpawnActions() { boot::release(list_); }
  SpawnActions(const SpawnActions &) = delete;
  SpawnActions &operator=(const SpawnActions &) = delete;

  // What is copied elsewhere from `fd` is copied from stands_for(fd). False without memory.
  template <typename F>
  bool add(const posix_spawn_file_actions_t *actions, F &&stands_for) noexcept {
    if (actions == nullptr || actions->__used == 0) return true;
    const auto *list = reinterpret_cast<const SpawnAction *>(actions->__actions);
    const std::size_t first = count_;
    if (!add(list, static_cast<std::size_t>(actions->__used))) return false;
    posix_spawn_file_actions_t before = *actions;
    for (before.__used = 0; before.__used < actions->__used; ++before.__used) {
      SpawnAction &action = list_[first + static_cast<std::size_t>(before.__used)];
      if (action.kind != SpawnAction::dup2) continue;
      auto &[fd, to] = action.dup2_action;
      if (fd != to && spawn_source(&before, fd).fd == fd) fd = stands_for(fd);
    }
    return true;
  }
  bool add_dup2(int fd, int to) noexcept {
    SpawnAction action{};
    action.kind = SpawnAction::dup2;
    action.dup2_action = {fd, to};
    return add(&action, 1);
  }
  bool add_close(int fd) noexcept {
    SpawnAction action{};
    action.kind = SpawnAction::close;
    action.fd = fd;
    return add(&action, 1);
  }
  // As the C library wants them, while this is.
  posix_spawn_file_actions_t as_given() const noexcept {
    posix_spawn_file_actions_t actions{};
    actions.__allocated = actions.__used = static_cast<int>(count_);
    actions.__actions = reinterpret_cast<struct __spawn_action *>(list_);
    return actions;
  }

 private:
  bool add(const SpawnAction *actions, std::size_t count) noexcept {
    if (count_ + count > room_) {
      std::size_t room = std::max(2 * room_, count_ + count + 16);
      auto *list = static_cast<SpawnAction *>(boot::allocate(room * sizeof(SpawnAction)));
      if (list == nullptr) return false;
      std::copy_n(list_, count_, list);
      boot::release(list_);
      list_ = list;
      room_ = room;
    }
    std::copy_n(actions, count, list_ + count_);
    count_ += count;
    return true;
  }

  SpawnAction *list_ = nullptr;
  std::size_t count_ = 0, room_ = 0;
};

}  // namespace inlay::shim
