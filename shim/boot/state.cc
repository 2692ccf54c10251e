#include "shim/boot/state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include "policy/load.h"
#include "policy/snapshot.h"
#include "shim/boot/heap.h"
#include "shim/arena/kernel.h"
#include "shim/boot/log.h"

namespace inlay::shim::boot {
namespace {

// Made once with new and never destroyed: hooks of other threads run until the very end.
struct State {
  std::atomic<const policy::Policy *> current{nullptr};
  std::string error;
};
constinit std::atomic<State *> g_state{nullptr};

// "FD:INODE" as the launcher wrote it; -1 when it is not that.
int parse_snapshot(const char *text, std::uint64_t *inode) noexcept {
  char *end = nullptr;
  errno = 0;
  long fd = std::strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != ':' || fd < 0 || fd > INT_MAX) return -1;
  const char *behind = end + 1;
  *inode = std::strtoull(behind, &end, 10);
  return errno != 0 || end == behind || *end != '\0' ? -1 : static_cast<int>(fd);
}

// A memfd nobody can change any more, made by this user or by root. The inode tells it from another
// descriptor that took the number in a program between.
bool is_sealed(int fd, std::uint64_t inode, std::size_t *size) noexcept {
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  struct stat info {};
  if (kernel::call(SYS_fstat, fd, kernel::word(&info)) != 0 || info.st_ino != inode ||
      !S_ISREG(info.st_mode) || info.st_size <= 0) {
    return false;
  }
  long seals = kernel::call(SYS_fcntl, fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) return false;
  if (info.st_uid != 0 && static_cast<long>(info.st_uid) != kernel::call(SYS_geteuid)) return false;
  *size = static_cast<std::size_t>(info.st_size);
  return true;
}

// Null when there is no usable snapshot: the file is read then, so a broken one costs time only.
const policy::Policy *from_snapshot(const char *text) {
  std::uint64_t inode = 0;
  std::size_t size = 0;
  int fd = parse_snapshot(text, &inode);
  if (fd < 0 || !is_sealed(fd, inode, &size)) return nullptr;
  long base = kernel::call(SYS_mmap, 0, static_cast<long>(size), PROT_READ, MAP_PRIVATE, fd, 0);
  kernel::close(fd);
  if (base < 0 && base > -4096) return nullptr;
  auto parsed = policy::deserialize({reinterpret_cast<const char *>(base), size});
  kernel::call(SYS_munmap, base, static_cast<long>(size));
  return parsed ? new (std::nothrow) policy::Policy(*std::move(parsed)) : nullptr;
}

void load(State &state, const char *file, const char *snapshot, bool strict) {
  const policy::Policy *found = snapshot == nullptr ? nullptr : from_snapshot(snapshot);
  if (found == nullptr) {
    auto loaded = policy::load(file);
    if (loaded) {
      loaded->strict = loaded->strict || strict;
      found = new policy::Policy(*std::move(loaded));
    } else {
      state.error = loaded.error().text();
    }
  }
  state.current.store(found, std::memory_order_release);
}

}  // namespace

const policy::Policy *policy() noexcept {
  State *state = g_state.load(std::memory_order_acquire);
  return state == nullptr ? nullptr : state->current.load(std::memory_order_acquire);
}

std::string_view policy_error() noexcept {
  State *state = g_state.load(std::memory_order_acquire);
  return state == nullptr ? std::string_view("out of memory") : std::string_view(state->error);
}

void load_policy(const char *file, const char *snapshot, bool strict) noexcept {
  auto *state = new (std::nothrow) State;
  if (state == nullptr) return;
  try {
    load(*state, file, snapshot, strict);
  } catch (const std::bad_alloc &) {
    state->current.store(nullptr, std::memory_order_release);
  }
  g_state.store(state, std::memory_order_release);
  if (policy() == nullptr) {
    LogFields fields;
    fields.event = policy::Event::notice;
    fields.reason = policy::Reason::policy_unreadable;
    fields.detail = state->error;
    log_event(fields);
  } else {
    start_log(policy()->log_file.c_str());
  }
}

}  // namespace inlay::shim::boot
