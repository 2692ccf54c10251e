#include "shim/boot/log.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "policy/reason.h"
#include "shim/arena/kernel.h"
#include "shim/arena/lock.h"
#include "shim/arena/process.h"
#include "shim/arena/published.h"
#include "shim/boot/json_line.h"
#include "shim/boot/log_prune.h"
#include "shim/boot/own_table.h"
#include "shim/boot/sandbox.h"

namespace inlay::shim::boot {
namespace {

using policy::LogFile;
using policy::LogRecord;

constexpr std::size_t kPathSize = 512;

struct Log {
  std::atomic<LogFile *> file{nullptr};
  std::atomic<std::uint32_t> epoch{0};  // fork epoch the file was made in
  std::atomic<bool> making{false};
  char path[kPathSize] = {};  // "" when the file is private memory
  std::atomic<const char *> json_file{""};
  char own_id[sizeof LogFile::own_id] = {};
  char program[sizeof LogRecord::program] = {};
};
constinit Log g_log;

void copy_text(char *to, std::size_t room, std::string_view text) noexcept {
  std::size_t length = text.size() < room - 1 ? text.size() : room - 1;
  if (length > 0) std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

// Appends to a path; false when it does not fit.
bool append(char *path, std::string_view text) noexcept {
  std::size_t length = std::strlen(path);
  if (length + text.size() + 1 > kPathSize) return false;
  std::memcpy(path + length, text.data(), text.size());
  path[length + text.size()] = '\0';
  return true;
}
bool append(char *path, std::uint64_t number) noexcept {
  char digits[20];
  std::size_t length = 0;
  do digits[sizeof digits - ++length] = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  return append(path, std::string_view(digits + sizeof digits - length, length));
}

// Field 22 of /proc/PID/stat, counted behind the command's name, which may hold anything.
std::uint64_t start_time_of_process() noexcept {
  char text[1024];
  long fd =
      kernel::call(SYS_openat, AT_FDCWD, kernel::word("/proc/self/stat"), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  long length = kernel::call(SYS_read, fd, kernel::word(text), sizeof text - 1);
  kernel::close(static_cast<int>(fd));
  if (length <= 0) return 0;
  text[length] = '\0';
  const char *at = std::strrchr(text, ')');
  if (at == nullptr) return 0;
  for (int field = 2; field < 22; ++field) {
    at = std::strchr(at + 1, ' ');
    if (at == nullptr) return 0;
  }
  std::uint64_t value = 0;
  for (++at; *at >= '0' && *at <= '9'; ++at) {
    value = value * 10 + static_cast<std::uint64_t>(*at - '0');
  }
  return value;
}

bool is_folder(const char *path) noexcept {
  struct stat info {};
  return kernel::call(SYS_newfstatat, AT_FDCWD, kernel::word(path), kernel::word(&info),
                      AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISDIR(info.st_mode);
}

// Under a seccomp filter opening a file may be the end of the process: private memory then.
// /run/inlay/log (sticky and open to all; root makes it, and its parent, where the agent's socket
// is and nobody else may put one), else the user's own runtime folder.
bool choose_folder(char *path) noexcept {
  constexpr const char kParent[] = "/run/inlay";
  constexpr const char kShared[] = "/run/inlay/log";
  path[0] = '\0';
  if (sandboxed()) return false;
  // mkdir obeys the umask.
  const auto make = [](const char *folder, long mode) noexcept {
    if (kernel::call(SYS_mkdirat, AT_FDCWD, kernel::word(folder), mode) == 0) {
      kernel::call(SYS_fchmodat, AT_FDCWD, kernel::word(folder), mode);
    }
  };
  if (kernel::call(SYS_geteuid) == 0) {
    make(kParent, 0755);
    make(kShared, 01777);
  }
  if (is_folder(kShared) &&
      kernel::call(SYS_faccessat, AT_FDCWD, kernel::word(kShared), W_OK | X_OK) == 0) {
    return append(path, kShared);
  }
  const char *own = std::getenv("XDG_RUNTIME_DIR");
  if (own == nullptr || own[0] != '/' || !append(path, own) || !append(path, "/inlay")) {
    return false;
  }
  kernel::call(SYS_mkdirat, AT_FDCWD, kernel::word(path), 0700);
  return is_folder(path);
}

// One process in so many: to look at every file makes the start of a program several times as long
// where many have died. The start time is there for containers, whose programs always get the same
// pid.
bool is_turn_to_prune(std::uint64_t start_time) noexcept {
  constexpr std::uint64_t kProcesses = 64;
  return (process_id() + start_time) % kProcesses == 0;
}

LogFile *map(int fd, int flags) noexcept {
  long base = kernel::call(SYS_mmap, 0, sizeof(LogFile), PROT_READ | PROT_WRITE, flags, fd, 0);
  return base < 0 && base > -4096 ? nullptr : reinterpret_cast<LogFile *>(base);
}

// In a folder open to all, a file of that name may be anyone's.
bool is_own_log(int fd) noexcept {
  struct stat info {};
  return kernel::call(SYS_fstat, fd, kernel::word(&info)) == 0 && S_ISREG(info.st_mode) &&
         static_cast<long>(info.st_uid) == kernel::call(SYS_geteuid) &&
         (info.st_mode & 07777) == 0600 && info.st_nlink == 1 &&
         info.st_size == static_cast<off_t>(sizeof(LogFile));
}

LogFile *make_file(char *path, std::uint64_t start_time) noexcept {
  if (!choose_folder(path)) {
    path[0] = '\0';
    return nullptr;
  }
  if (is_turn_to_prune(start_time)) prune_logs(path);
  if (!append(path, "/") || !append(path, process_id()) || !append(path, "-") ||
      !append(path, start_time) || !append(path, ".log")) {
    path[0] = '\0';
    return nullptr;
  }
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  long fd = kernel::call(SYS_openat, AT_FDCWD, kernel::word(path), kFlags, 0600);
  LogFile *file = nullptr;
  if (fd >= 0 && kernel::call(SYS_ftruncate, fd, sizeof(LogFile)) == 0) {
    file = map(static_cast<int>(fd), MAP_SHARED);
  } else if (fd == -EEXIST) {
    // The same pid and start time: this process wrote it before an exec, and goes on in it.
    fd = kernel::call(SYS_openat, AT_FDCWD, kernel::word(path), O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && is_own_log(static_cast<int>(fd))) {
      file = map(static_cast<int>(fd), MAP_SHARED);
    }
  }
  if (fd >= 0) kernel::close(static_cast<int>(fd));
  if (file == nullptr) path[0] = '\0';
  return file;
}

void fill_header(LogFile &file, std::uint64_t start_time) noexcept {
  file.version = policy::kLogVersion;
  file.ring_size = policy::kLogRingSize;
  file.pid = process_id();
  file.record_size = sizeof(LogRecord);
  file.start_time = start_time;
  copy_text(file.inlay_version, sizeof file.inlay_version, INLAY_VERSION);
  std::memset(file.executable, 0, sizeof file.executable);
  if (!sandboxed()) {
    kernel::call(SYS_readlinkat, AT_FDCWD, kernel::word("/proc/self/exe"),
                 kernel::word(file.executable), sizeof file.executable - 1);
  }
  copy_text(file.own_id, sizeof file.own_id, published(g_log.own_id));
  // The rest is there when this is.
  std::atomic_ref<std::uint64_t>(file.magic).store(policy::kLogMagic, std::memory_order_release);
}

// This process's file; made on its first event after a fork. Null while another thread makes it.
LogFile *current_file() noexcept {
  LogFile *file = g_log.file.load(std::memory_order_acquire);
  std::uint32_t epoch = fork_epoch();
  if (file != nullptr && g_log.epoch.load(std::memory_order_acquire) == epoch) return file;
  // A vfork child writes into its parent's, which fork_epoch() already gives.
  if (g_log.making.exchange(true, std::memory_order_acquire)) return nullptr;
  std::uint64_t start_time = 0;
  LogFile *made = nullptr;
  in_own_table([&] {
    start_time = sandboxed() ? 0 : start_time_of_process();
    made = make_file(g_log.path, start_time);
  });
  if (made == nullptr) made = map(-1, MAP_PRIVATE | MAP_ANONYMOUS);
  if (made != nullptr) {
    fill_header(*made, start_time);
    g_log.file.store(made, std::memory_order_release);
    g_log.epoch.store(epoch, std::memory_order_release);
  }
  g_log.making.store(false, std::memory_order_release);
  return made;
}

void count(LogFile &file, policy::Reason reason) noexcept {
  auto index = static_cast<std::size_t>(reason);
  if (index < sizeof file.counters / sizeof file.counters[0]) {
    file.counters[index].fetch_add(1, std::memory_order_relaxed);
  }
}

void fill(LogRecord &record, const LogFields &fields) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  record.time_ns = now.tv_sec * 1'000'000'000L + now.tv_nsec;
  record.tid = current_thread_id();
  record.reason = fields.reason;
  record.direction = fields.direction;
  record.event = fields.event;
  std::memcpy(record.local_address, fields.local_address, sizeof record.local_address);
  std::memcpy(record.remote_address, fields.remote_address, sizeof record.remote_address);
  record.local_port = fields.local_port;
  record.remote_port = fields.remote_port;
  record.fd = static_cast<std::uint32_t>(fields.fd);
  record.bytes_in = fields.bytes_in;
  record.bytes_out = fields.bytes_out;
  std::memcpy(record.program, g_log.program, sizeof record.program);
  copy_text(record.rule, sizeof record.rule, fields.rule);
  copy_text(record.peer_id, sizeof record.peer_id, fields.peer_id);
  copy_text(record.detail, sizeof record.detail, fields.detail);
}

// One write of one line: O_APPEND keeps lines of several processes whole.
void append_line(const char *line, std::size_t length) noexcept {
  long fd = kernel::call(
      SYS_openat, AT_FDCWD, kernel::word(g_log.json_file.load(std::memory_order_acquire)),
      O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
  if (fd < 0) return;
  for (std::size_t done = 0; done < length;) {  // one write, but on a disk that is all but full
    long written =
        kernel::call(SYS_write, fd, kernel::word(line + done), static_cast<long>(length - done));
    if (written <= 0 && written != -EINTR) break;
    done += written > 0 ? static_cast<std::size_t>(written) : 0;
  }
  kernel::close(static_cast<int>(fd));
}

void write_json(const LogFile &file, const LogRecord &record) noexcept {
  if (sandboxed()) return;
  char line[kJsonLineSize];
  std::size_t length = format_json_line(record, file, line, sizeof line);
  in_own_table([&] { append_line(line, length); });
}

}  // namespace

void log_event(const LogFields &fields) noexcept {
  LogFile *file = current_file();
  if (file == nullptr) return;
  count(*file, fields.reason);
  std::uint64_t number = file->next.fetch_add(1, std::memory_order_relaxed);
  LogRecord &record = file->ring[number % policy::kLogRingSize];
  record.sequence.exchange(0, std::memory_order_acq_rel);  // before any of what follows
  fill(record, fields);
  record.sequence.store(number + 1, std::memory_order_release);
  if (g_log.json_file.load(std::memory_order_acquire)[0] != '\0') {
    LogRecord copy{};
    fill(copy, fields);
    write_json(*file, copy);
  }
}

void log_own_id(std::string_view id) noexcept {
  publish(g_log.own_id, sizeof g_log.own_id, id);
  LogFile *file = g_log.file.load(std::memory_order_acquire);
  if (file != nullptr) publish(file->own_id, sizeof file->own_id, id);
}

void log_own_id_if_none(std::string_view id) noexcept {
  if (published(g_log.own_id)[0] == '\0') log_own_id(id);
}

void start_log(const char *json_file) noexcept {
  g_log.json_file.store(json_file, std::memory_order_release);
  // Of the first thread, which this is: later the name may be any thread's.
  kernel::call(SYS_prctl, PR_GET_NAME, kernel::word(g_log.program));
  current_file();
}

void open_log() noexcept { current_file(); }

void end_log() noexcept {
  if (sandboxed()) return;
  LogFile *file = g_log.file.load(std::memory_order_acquire);
  if (file == nullptr || g_log.path[0] == '\0') return;
  if (g_log.epoch.load(std::memory_order_acquire) != fork_epoch()) return;
  if (file->next.load(std::memory_order_relaxed) != 0) return;
  kernel::call(SYS_unlinkat, AT_FDCWD, kernel::word(g_log.path), 0);
}

}  // namespace inlay::shim::boot
