#include "tools/log_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

namespace inlay::tools {
namespace {

using policy::LogFile;
using policy::LogRecord;

constexpr int kAttempts = 3;

class File {
 public:
  explicit File(const std::string &path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File &) = delete;
  File &operator=(const File &) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Reading, not mapping: a file that its owner truncates must not end this process by SIGBUS.
template <typename T>
bool read_at(int fd, std::size_t offset, T *into) {
  std::size_t done = 0;
  auto *bytes = reinterpret_cast<char *>(into);
  while (done < sizeof(T)) {
    ssize_t got = ::pread(fd, bytes + done, sizeof(T) - done, static_cast<off_t>(offset + done));
    if (got <= 0) return false;
    done += static_cast<std::size_t>(got);
  }
  return true;
}

template <std::size_t Size>
std::string text_of(const char (&field)[Size]) {
  return std::string(field, ::strnlen(field, Size));
}

policy::Endpoint endpoint(const std::uint8_t (&address)[16], std::uint16_t port) {
  policy::Endpoint result;
  std::copy(std::begin(address), std::end(address), result.address.bytes.begin());
  result.port = port;
  return result;
}

LogEvent event_of(const LogRecord &record, std::uint64_t number) {
  LogEvent event;
  event.number = number;
  event.time_ns = record.time_ns;
  event.tid = record.tid;
  event.reason = record.reason;
  event.direction = record.direction;
  event.event = record.event;
  event.local = endpoint(record.local_address, record.local_port);
  event.remote = endpoint(record.remote_address, record.remote_port);
  event.fd = static_cast<std::int32_t>(record.fd);
  event.bytes_in = record.bytes_in;
  event.bytes_out = record.bytes_out;
  event.program = text_of(record.program);
  event.rule = text_of(record.rule);
  event.peer_id = text_of(record.peer_id);
  event.detail = text_of(record.detail);
  return event;
}

// Nothing for a record being written and for a number that does not belong into the slot.
std::optional<LogEvent> event_in_slot(std::size_t slot, std::uint64_t sequence,
                                      const LogRecord &record) {
  if (sequence == 0 || (sequence - 1) % policy::kLogRingSize != slot) return std::nullopt;
  return event_of(record, sequence - 1);
}

// One record that changed while the whole file was read.
std::optional<LogEvent> read_record(int fd, std::size_t slot) {
  std::size_t offset = offsetof(LogFile, ring) + slot * sizeof(LogRecord);
  std::size_t sequence_offset = offset + offsetof(LogRecord, sequence);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::uint64_t before = 0;
    std::uint64_t after = 0;
    LogRecord record;
    if (!read_at(fd, sequence_offset, &before) || !read_at(fd, offset, &record) ||
        !read_at(fd, sequence_offset, &after)) {
      return std::nullopt;
    }
    if (before == after) return event_in_slot(slot, before, record);
  }
  return std::nullopt;
}

// Whether the file may be taken for what its name says. A process that gave up root, or took
// another user's rights, has left a file of its first user; nobody else's is believed.
bool credible_owner(uid_t owner, const LogName &name) {
  uid_t self = ::geteuid();
  if (owner == 0 || owner == self) return true;
  if (self != 0) return false;
  struct stat process {};
  if (!is_alive(name)) return true;
  return ::stat(fmt::format("/proc/{}", name.pid).c_str(), &process) == 0 &&
         process.st_uid == owner;
}

}  // namespace

std::optional<LogName> parse_log_name(std::string_view text) {
  constexpr std::string_view kSuffix = ".log";
  if (text.size() <= kSuffix.size() || text.substr(text.size() - kSuffix.size()) != kSuffix) {
    return std::nullopt;
  }
  text.remove_suffix(kSuffix.size());
  const char *end = text.data() + text.size();
  LogName name;
  auto pid = std::from_chars(text.data(), end, name.pid);
  if (pid.ec != std::errc() || name.pid <= 0 || pid.ptr == end || *pid.ptr != '-') {
    return std::nullopt;
  }
  auto start = std::from_chars(pid.ptr + 1, end, name.start_time);
  if (start.ec != std::errc() || start.ptr != end) return std::nullopt;
  return name;
}

std::vector<std::string> log_folders() {
  std::vector<std::string> folders = {"/run/inlay/log"};
  auto add = [&](const std::string &folder) {
    if (std::find(folders.begin(), folders.end(), folder) == folders.end()) {
      folders.push_back(folder);
    }
  };
  const char *own = std::getenv("XDG_RUNTIME_DIR");
  if (own != nullptr && own[0] == '/') add(std::string(own) + "/inlay");
  if (::geteuid() == 0) {
    std::error_code error;
    for (const auto &user : std::filesystem::directory_iterator("/run/user", error)) {
      add(user.path().string() + "/inlay");
    }
  }
  return folders;
}

tl::expected<ProcessLog, std::string> read_log(const std::string &path, const LogName &name,
                                               std::uint64_t first) {
  File file(path);
  if (file.fd() < 0) return tl::make_unexpected(std::string(std::strerror(errno)));
  struct stat status {};
  if (::fstat(file.fd(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return tl::make_unexpected("not a regular file");
  }
  if (!credible_owner(status.st_uid, name)) {
    return tl::make_unexpected(
        fmt::format("owned by user {}, who is not the process's; ignored", status.st_uid));
  }
  // Three passes, so that neither the order inside one copy nor that of the processor matters: a
  // record whose sequence is the same before and after was whole in between.
  auto before = std::make_unique<LogFile>();
  auto during = std::make_unique<LogFile>();
  auto after = std::make_unique<LogFile>();
  for (LogFile *pass : {before.get(), during.get(), after.get()}) {
    if (!read_at(file.fd(), 0, pass)) return tl::make_unexpected("too short for a log; ignored");
  }
  if (during->magic != policy::kLogMagic) return tl::make_unexpected("not a log; ignored");
  if (during->version != policy::kLogVersion || during->ring_size != policy::kLogRingSize ||
      during->record_size != sizeof(LogRecord)) {
    return tl::make_unexpected(fmt::format("written by another version of inlay ({}); ignored",
                                           text_of(during->inlay_version)));
  }
  if (during->pid != static_cast<std::uint32_t>(name.pid) ||
      during->start_time != name.start_time) {
    return tl::make_unexpected("its name is not that of the process inside; ignored");
  }
  ProcessLog log;
  log.pid = during->pid;
  log.start_time = during->start_time;
  log.owner = status.st_uid;
  log.version = text_of(during->inlay_version);
  log.executable = text_of(during->executable);
  log.own_id = text_of(during->own_id);
  for (std::size_t i = 0; i < policy::kLogRingSize; ++i) {
    std::uint64_t sequence = before->ring[i].sequence.load(std::memory_order_relaxed);
    std::uint64_t again = after->ring[i].sequence.load(std::memory_order_relaxed);
    auto event =
        sequence == again ? event_in_slot(i, sequence, during->ring[i]) : read_record(file.fd(), i);
    if (event && event->number >= first) log.events.push_back(std::move(*event));
  }
  std::sort(log.events.begin(), log.events.end(),
            [](const LogEvent &a, const LogEvent &b) { return a.number < b.number; });
  if (!log.events.empty()) {
    std::uint64_t newest = log.events.back().number;
    if (newest >= policy::kLogRingSize && newest - policy::kLogRingSize + 1 > first) {
      log.overwritten = newest - policy::kLogRingSize + 1 - first;
    }
  }
  return log;
}

// Field 22 of /proc/PID/stat, after the name in brackets, which may
// itself hold brackets and spaces.
std::optional<std::uint64_t> process_start_time(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  std::size_t field = line.rfind(')');
  if (field == std::string::npos) return std::nullopt;
  for (int i = 2; i < 22; ++i) {
    field = line.find(' ', field + 1);
    if (field == std::string::npos) return std::nullopt;
  }
  std::uint64_t value = 0;
  auto parsed = std::from_chars(line.data() + field + 1, line.data() + line.size(), value);
  return parsed.ec == std::errc() ? std::optional(value) : std::nullopt;
}

bool is_alive(const LogName &name) { return process_start_time(name.pid) == name.start_time; }

}  // namespace inlay::tools
