#include "shim/arena/participant.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/sandbox.h"
#include "shim/session/proc.h"

namespace inlay::shim {
namespace {

// Its arena may be replaced while another thread looks.
struct Region {
  std::atomic<const void *> begin{nullptr};
  std::atomic<std::size_t> size{0};
  std::atomic<int> fd{-1};
  std::atomic<std::atomic<std::uint32_t> *> doubts{nullptr};
};

constinit Region g_regions[kMaxArenas] = {};

// The kernel numbers namespaces from below; a name holds the number's lower bits. The highest of
// the name's is for those it did not tell.
constexpr std::uint64_t kNumbered = (1u << 18) - 1;
constexpr std::uint64_t kUnknownBit = 1u << 18;

bool read_link(const char *path, char (&text)[64]) noexcept {
  long length = kernel::call(SYS_readlinkat, AT_FDCWD, kernel::word(path), kernel::word(text),
                             sizeof text - 1);
  if (length <= 0) return false;
  text[length] = '\0';
  return true;
}

constexpr const char kOwnNamespace[] = "/proc/self/ns/pid";

struct flock byte_of(Participant who, short type) noexcept {
  struct flock record {};
  record.l_type = type;
  record.l_whence = SEEK_SET;
  record.l_start = static_cast<off_t>(who >> kProcessAt);
  record.l_len = 1;
  return record;
}

Region *region_with(const void *memory) noexcept {
  auto at = reinterpret_cast<std::uintptr_t>(memory);
  for (Region &region : g_regions) {
    auto begin = reinterpret_cast<std::uintptr_t>(region.begin.load(std::memory_order_acquire));
    if (begin != 0 && at >= begin && at - begin < region.size.load(std::memory_order_relaxed)) {
      return &region;
    }
  }
  return nullptr;
}

bool in_doubt(const Region &region) noexcept {
  return region.doubts.load(std::memory_order_relaxed)->load(std::memory_order_acquire) != 0;
}

// Somebody has the record lock. Asked in the name of the description, not of the process: its own
// locks count as another's.
bool is_locked(int fd, Participant who, bool *asked) noexcept {
  struct flock record = byte_of(who, F_WRLCK);
  *asked = kernel::call(SYS_fcntl, fd, F_OFD_GETLK, kernel::word(&record)) == 0;
  return record.l_type != F_UNLCK;
}

bool lives_elsewhere(const Region &region, Participant who) noexcept {
  int fd = region.fd.load(std::memory_order_relaxed);
  if (fd < 0 || in_doubt(region)) return true;
  bool asked = false;
  // That the number still names the memory is known by finding oneself there.
  if (!is_locked(fd, this_process(), &asked) || !asked) return true;
  if (is_locked(fd, who, &asked) || !asked) return true;
  // Whoever lets its lock go for a moment has raised the doubt before.
  return in_doubt(region);
}

// A zombie has no executable any more. Its number is asked for as well: it is not to be seen where /proc
// is not mounted, or hides what is others' (hidepid).
Life look_at(std::uint32_t number, bool whole_process) noexcept {
  ProcPath executable, threads;
  executable.before("/exe").before(number).before("/proc/");
  threads.before("/task").before(number).before("/proc/");
  char name[1];
  long length = kernel::call(SYS_readlinkat, AT_FDCWD, kernel::word(executable.text()),
                             kernel::word(name), sizeof name);
  if (length > 0) return Life::alive;
  struct stat info {};
  if (length != -ENOENT || kernel::call(SYS_newfstatat, AT_FDCWD, kernel::word(threads.text()),
                                        kernel::word(&info), 0) != 0) {
    return Life::unclear;
  }
  // Or its first thread has ended, and others go on: a folder has two links and one for each.
  constexpr unsigned kOfOne = 3;
  return whole_process && info.st_nlink > kOfOne ? Life::alive : Life::gone;
}

void vouch_in(const Region &region) noexcept {
  int fd = region.fd.load(std::memory_order_relaxed);
  if (fd < 0) return;
  struct flock record = byte_of(this_process(), F_WRLCK);
  // Under a filter of the program's own the call may be the end of it: then nobody is sure any
  // more.
  if (boot::sandboxed() || kernel::call(SYS_fcntl, fd, F_SETLK, kernel::word(&record)) != 0) {
    region.doubts.load(std::memory_order_relaxed)->fetch_add(1, std::memory_order_acq_rel);
  }
}

}  // namespace

std::uint64_t read_namespace(std::uint64_t otherwise) noexcept {
  char text[64];
  if (!read_link(kOwnNamespace, text)) return otherwise;
  const char *digits = std::strchr(text, '[');
  std::uint64_t number = 0;
  while (digits != nullptr && *++digits >= '0' && *digits <= '9') {
    number = number * 10 + static_cast<std::uint64_t>(*digits - '0');
  }
  return number == 0 ? otherwise : number & kNumbered;
}

std::uint64_t unknown_namespace() noexcept {
  std::uint64_t number = 0;
  if (kernel::call(SYS_getrandom, kernel::word(&number), sizeof number, 0) != sizeof number) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    number = static_cast<std::uint64_t>(now.tv_nsec);
  }
  return (number & kNumbered) | kUnknownBit;
}

bool children_are_elsewhere() noexcept {
  char own[64], of_children[64];
  return read_link(kOwnNamespace, own) &&
         read_link("/proc/self/ns/pid_for_children", of_children) &&
         std::strcmp(own, of_children) != 0;
}

Life life_of(const void *memory, Participant who) noexcept {
  if (namespace_of(who) != namespace_of(this_process())) {
    const Region *region = region_with(memory);
    return region == nullptr || lives_elsewhere(*region, who) ? Life::alive : Life::gone;
  }
  // kill() finds a process by any of its threads' ids; EPERM means it lives under another uid.
  std::uint32_t number = thread_of(who) != 0 ? thread_of(who) : process_of(who);
  if (kernel::call(SYS_kill, static_cast<long>(number), 0) == -ESRCH) return Life::gone;
  // Of a program that has a filter only the calls are made that it knows anyway.
  if (process_of(who) == process_of(this_process()) || boot::sandboxed()) return Life::alive;
  return look_at(number, thread_of(who) == 0);
}

void vouch_in(unsigned arena, const SharedRegion &shared) noexcept {
  Region &region = g_regions[arena];
  region.fd.store(shared.fd, std::memory_order_relaxed);
  region.doubts.store(shared.doubts, std::memory_order_relaxed);
  region.size.store(shared.size, std::memory_order_relaxed);
  region.begin.store(shared.begin, std::memory_order_release);
  vouch_in(region);
}

void vouch() noexcept {
  for (const Region &region : g_regions) {
    if (region.begin.load(std::memory_order_acquire) != nullptr) vouch_in(region);
  }
}

Doubt::Doubt() noexcept { add(1); }

Doubt::~Doubt() {
  vouch();
  add(-1);
}

void Doubt::add(std::int32_t change) noexcept {
  for (const Region &region : g_regions) {
    if (region.begin.load(std::memory_order_acquire) == nullptr) continue;
    region.doubts.load(std::memory_order_relaxed)
        ->fetch_add(static_cast<std::uint32_t>(change), std::memory_order_acq_rel);
  }
}

}  // namespace inlay::shim
