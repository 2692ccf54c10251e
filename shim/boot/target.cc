// Whether the preload reaches a program about to start: what `inlay run` checks from outside, for
// programs started from inside. Direct system calls only: this runs in vfork children.

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "shim/arena/kernel.h"
#include "shim/boot/environment.h"
#include "shim/boot/level.h"
#include "shim/boot/log.h"
#include "shim/boot/own_table.h"
#include "shim/boot/room.h"
#include "shim/boot/sandbox.h"

namespace inlay::shim::boot {
namespace {

constexpr int kMaxInterpreters = 4;     // BINPRM_BUF: the kernel follows as many
constexpr std::size_t kHeadSize = 256;  // of a script the kernel reads (BINPRM_BUF_SIZE)
constexpr std::size_t kMaxHeaders = 32;

constinit bool g_strict = false;

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#else
constexpr Elf64_Half kMachine = EM_AARCH64;
#endif

class Opened {
 public:
  explicit Opened(long fd) noexcept : fd_(static_cast<int>(fd)) {}
  ~Opened() {
    if (fd_ >= 0) kernel::close(fd_);
  }
  Opened(const Opened &) = delete;
  Opened &operator=(const Opened &) = delete;
  int get() const noexcept { return fd_; }
  // Less than `size` at the end of the file only; or the kernel's error.
  long read_at(void *buffer, std::size_t size, std::uint64_t offset) const noexcept {
    std::size_t done = 0;
    while (done < size) {
      long got = kernel::call(SYS_pread64, fd_, kernel::word(static_cast<char *>(buffer) + done),
                              static_cast<long>(size - done), static_cast<long>(offset + done));
      if (got == -EINTR) continue;
      if (got < 0) return got;
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return static_cast<long>(done);
  }

 private:
  int fd_;
};

// A full table, of a process with one thread or a vfork child, is no reason to know nothing of a
// file.
long open_to_read(int directory, const char *path, int flags) noexcept {
  long opened = -EINTR;
  while (opened == -EINTR) {
    opened = kernel::call(SYS_openat, directory, kernel::word(path), flags);
  }
  if (opened != -EMFILE) return opened;
  Room room;
  return kernel::call(SYS_openat, directory, kernel::word(path), flags);
}

long effective_uid() noexcept { return kernel::call(SYS_geteuid); }
long effective_gid() noexcept { return kernel::call(SYS_getegid); }

// As which nothing can be executed without AT_SECURE (cap_bprm_creds_from_file).
bool is_another() noexcept {
  return kernel::call(SYS_getuid) != effective_uid() || kernel::call(SYS_getgid) != effective_gid();
}

// The loader drops the preload for a program that gains privilege, or has it (AT_SECURE).
bool is_secured(const Opened &file, const struct stat &info) noexcept {
  if (is_another()) return true;
  long uid = effective_uid();
  if ((info.st_mode & S_ISUID) != 0 && static_cast<long>(info.st_uid) != uid) return true;
  if ((info.st_mode & S_ISGID) != 0 && (info.st_mode & S_IXGRP) != 0 &&
      static_cast<long>(info.st_gid) != effective_gid()) {
    return true;
  }
  if (uid == 0) return false;
  return kernel::call(SYS_fgetxattr, file.get(), kernel::word("security.capability"), 0, 0) > 0;
}

bool is_loader(const char *path) noexcept {
  const char *slash = path == nullptr ? nullptr : std::strrchr(path, '/');
  const char *name = slash == nullptr ? path : slash + 1;
  return name != nullptr && std::strncmp(name, "ld-linux", 8) == 0;
}

// The linker of Go leaves a note of owner "Go" with the build ID: such a program calls the kernel
// past libc even when it is dynamic.
bool has_go_note(const Opened &file, const Elf64_Phdr &segment) noexcept {
  alignas(Elf64_Nhdr) char notes[1024];
  std::size_t room = segment.p_filesz < sizeof notes ? segment.p_filesz : sizeof notes;
  long length = file.read_at(notes, room, segment.p_offset);
  if (length < 0) return true;  // for all that is known
  auto left = static_cast<std::size_t>(length);
  auto padded = [](Elf64_Word size) { return (std::size_t{size} + 3) & ~std::size_t{3}; };
  for (const char *at = notes; left >= sizeof(Elf64_Nhdr) + 4;) {
    auto *note = reinterpret_cast<const Elf64_Nhdr *>(at);
    if (note->n_namesz == 4 && std::memcmp(at + sizeof *note, "Go\0", 4) == 0) return true;
    std::size_t size = sizeof *note + padded(note->n_namesz) + padded(note->n_descsz);
    if (size >= left) return false;
    at += size;
    left -= size;
  }
  return false;
}

Target judge_elf(const Opened &file, const Elf64_Ehdr &header, const char *path) noexcept {
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != kMachine) {
    return Target::foreign;
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) return Target::reachable;
  Elf64_Phdr headers[kMaxHeaders];
  std::size_t count = header.e_phnum < kMaxHeaders ? header.e_phnum : kMaxHeaders;
  auto size = static_cast<long>(count * sizeof headers[0]);
  if (long got = file.read_at(headers, static_cast<std::size_t>(size), header.e_phoff);
      got != size) {
    return got < 0 ? Target::unknown : Target::reachable;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (headers[i].p_type == PT_NOTE && has_go_note(file, headers[i])) return Target::foreign;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (headers[i].p_type != PT_INTERP) continue;
    char interpreter[kHeadSize] = {};
    file.read_at(interpreter, sizeof interpreter - 1, headers[i].p_offset);
    return is_loader(interpreter) ? Target::reachable : Target::foreign;
  }
  // The loader run as a program honours the preload.
  return is_loader(path) ? Target::reachable : Target::static_image;
}

// Of a file that is being written the section headers, at its end, come last.
bool is_whole(const Opened &file, const struct stat &info) noexcept {
  Elf64_Ehdr header{};
  if (file.read_at(&header, sizeof header, 0) != sizeof header ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_machine != kMachine) {
    return false;
  }
  const std::uint64_t size = static_cast<std::uint64_t>(info.st_size);
  return header.e_shoff <= size &&
         size - header.e_shoff >= std::uint64_t{header.e_shnum} * header.e_shentsize;
}

// The loader of the next image, as whoever this process is now and from its root, finds the library
// this process has. What another wrote in its place is looked at once more.
bool finds_library() noexcept {
  const char *path = library_path();
  if (path == nullptr) return true;  // boot had no memory for it: nothing is known
  const long opened = open_to_read(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  Opened file(opened);
  struct stat info {};
  return opened >= 0 && kernel::call(SYS_fstat, file.get(), kernel::word(&info)) == 0 &&
         S_ISREG(info.st_mode) && is_whole(file, info);
}

// Whether the loader has room for the library nobody knows then.
bool has_little_memory() noexcept {
  rlimit limit{};
  return kernel::call(SYS_prlimit64, 0, RLIMIT_AS, 0, kernel::word(&limit)) == 0 &&
         limit.rlim_cur != RLIM_INFINITY;
}

bool may_be_executed(int directory, const char *path) noexcept {
  long result = kernel::call(SYS_faccessat, directory, kernel::word(path), X_OK);
  if (is_another() && (result == 0 || result == -EACCES)) {
    // That was about the real user.
    long effective = kernel::call(SYS_faccessat2, directory, kernel::word(path), X_OK, AT_EACCESS);
    result = effective == -ENOSYS || effective == -EPERM ? 0 : effective;  // not before Linux 5.8
  }
  struct stat info {};
  if (result == 0 &&
      kernel::call(SYS_newfstatat, directory, kernel::word(path), kernel::word(&info), 0) == 0) {
    return S_ISREG(info.st_mode);  // exec of a folder is EACCES, and a search of PATH goes on
  }
  return result != -ENOENT && result != -ENOTDIR && result != -EACCES && result != -ELOOP &&
         result != -ENAMETOOLONG;
}

Target judge_file(int directory, const char *path, int flags, int depth) noexcept {
  int open_flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  if ((flags & AT_SYMLINK_NOFOLLOW) != 0) open_flags |= O_NOFOLLOW;
  char own[32];
  if (path[0] == '\0' && (flags & AT_EMPTY_PATH) != 0) {
    // By its number, without moving its offset.
    constexpr const char kPrefix[] = "/proc/self/fd/";
    std::memcpy(own, kPrefix, sizeof kPrefix);
    char digits[12];
    std::size_t length = 0;
    unsigned number = static_cast<unsigned>(directory);
    do digits[length++] = static_cast<char>('0' + number % 10);
    while ((number /= 10) != 0);
    char *end = own + sizeof kPrefix - 1;
    while (length > 0) *end++ = digits[--length];
    *end = '\0';
    path = own;
    directory = AT_FDCWD;
  }
  const long opened = open_to_read(directory, path, open_flags);
  if (opened < 0) return may_be_executed(directory, path) ? Target::unknown : Target::reachable;
  Opened file(opened);
  struct stat info {};
  if (kernel::call(SYS_fstat, file.get(), kernel::word(&info)) != 0) return Target::unknown;
  if (!S_ISREG(info.st_mode)) return Target::reachable;
  alignas(Elf64_Ehdr) char head[kHeadSize] = {};
  long length = file.read_at(head, sizeof head - 1, 0);
  if (length < 4) return length < 0 ? Target::unknown : Target::reachable;
  if (head[0] == '#' && head[1] == '!') {
    if (depth >= kMaxInterpreters) return Target::reachable;
    char *begin = head + 2 + std::strspn(head + 2, " \t");
    begin[std::strcspn(begin, " \t\n")] = '\0';
    return judge_file(AT_FDCWD, begin, 0, depth + 1);
  }
  if (std::memcmp(head, ELFMAG, SELFMAG) != 0) return Target::reachable;
  if (is_secured(file, info)) return Target::privileged;
  if (length < static_cast<long>(sizeof(Elf64_Ehdr))) return Target::reachable;
  return judge_elf(file, *reinterpret_cast<const Elf64_Ehdr *>(head), path);
}

}  // namespace

void remember_strictness(bool strict) noexcept { g_strict = strict; }

bool may_be_executed(const char *path) noexcept { return may_be_executed(AT_FDCWD, path); }

bool fits(char *const arguments[], char *const environment[]) noexcept {
  constexpr std::size_t kLongest = 32 * 4096;   // MAX_ARG_STRLEN
  constexpr std::size_t kMostOfAll = 6u << 20;  // of all of them, whatever the stack's limit
  std::size_t total = 0;
  for (char *const *list : {arguments, environment}) {
    for (; list != nullptr && *list != nullptr; ++list) {
      const std::size_t size = std::strlen(*list) + 1;
      total += size + sizeof *list;
      if (size > kLongest || total > kMostOfAll) return false;
    }
  }
  return true;
}

Target judge_target_at(int directory, const char *path, int flags) noexcept {
  if (!active() || path == nullptr) return Target::reachable;
  Target target = Target::reachable;
  const bool is_here = directory != AT_FDCWD;  // in this table
  if (is_here) target = judge_file(directory, path, flags, 0);
  in_own_table([&] {
    if (!is_here) target = judge_file(directory, path, flags, 0);
    if (target == Target::reachable && !finds_library()) target = Target::no_library;
  });
  if (target == Target::reachable && sandboxed() && has_little_memory()) target = Target::no_room;
  return target;
}

Target judge_target(const char *path) noexcept { return judge_target_at(AT_FDCWD, path, 0); }

Target judge_target_in_path(const char *file) noexcept {
  if (!active() || file == nullptr) return Target::reachable;
  if (std::strchr(file, '/') != nullptr) return judge_target(file);
  std::size_t name_length = std::strlen(file);
  const char *list = std::getenv("PATH");
  if (list == nullptr) list = "/bin:/usr/bin";
  while (true) {
    std::size_t length = std::strcspn(list, ":");
    char path[4096];
    if (length + name_length + 2 <= sizeof path) {
      // An empty entry is the current folder.
      std::memcpy(path, list, length);
      if (length > 0) path[length++] = '/';
      std::memcpy(path + length, file, name_length + 1);
      if (may_be_executed(path)) {
        return judge_target(path);
      }
    }
    list += std::strcspn(list, ":");
    if (*list == '\0') return Target::reachable;
    ++list;
  }
}

static std::string_view why(Target target) noexcept {
  switch (target) {
    case Target::reachable: return "";
    case Target::static_image: return "statically linked: ";
    case Target::privileged: return "gains privilege, or has another real user: ";
    case Target::foreign: return "another C library or machine, or Go: ";
    case Target::unknown: return "cannot be read: ";
    case Target::no_room: return "in a seccomp filter, and with a limit on memory: ";
    case Target::no_library: return "the loader would not find a whole libinlay.so: ";
  }
  return "";
}

bool may_start(Target target, const char *path) noexcept {
  if (target == Target::reachable) return true;
  char detail[sizeof(policy::LogRecord::detail)];
  const std::string_view reason = why(target);
  std::memcpy(detail, reason.data(), reason.size());
  const std::size_t room = sizeof detail - reason.size();
  const std::size_t length = std::min(std::strlen(path), room);
  std::memcpy(detail + reason.size(), path, length);
  LogFields fields;
  fields.event = g_strict ? policy::Event::refused : policy::Event::notice;
  fields.reason = policy::Reason::exec_unprotected;
  fields.detail = {detail, reason.size() + length};
  log_event(fields);
  return !g_strict;
}

}  // namespace inlay::shim::boot
