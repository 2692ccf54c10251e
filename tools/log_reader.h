// Reads the log files that processes under inlay keep (policy/log_record.h) while they are being
// written, and whatever else somebody put in their place.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "policy/address.h"
#include "policy/log_record.h"

namespace inlay::tools {

struct LogEvent {
  std::uint64_t number = 0;  // counts up from 0 in each process
  std::int64_t time_ns = 0;  // since the epoch, UTC
  std::uint32_t tid = 0;
  policy::Reason reason = policy::Reason::none;
  policy::Direction direction = policy::Direction::none;
  policy::Event event = policy::Event::notice;
  policy::Endpoint local;
  policy::Endpoint remote;
  std::int32_t fd = -1;
  std::uint64_t bytes_in = 0;
  std::uint64_t bytes_out = 0;
  std::string program, rule, peer_id, detail;  // as found: not made printable
};

struct ProcessLog {
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot
  uid_t owner = 0;               // of the file
  std::string version, executable, own_id;
  std::uint64_t overwritten = 0;  // events from `first` on that the ring no longer has
  std::vector<LogEvent> events;   // by number
};

// What a log file's name says: "<pid>-<start time>.log".
struct LogName {
  pid_t pid = 0;
  std::uint64_t start_time = 0;
  bool operator==(const LogName &) const = default;
};
std::optional<LogName> parse_log_name(std::string_view name);

// The folders logs may be in: /run/inlay/log, $XDG_RUNTIME_DIR/inlay and, for root, those of all
// users.
std::vector<std::string> log_folders();

// What somebody who looks for a fault wants to see.
constexpr bool is_problem(policy::Event event) noexcept {
  return event == policy::Event::refused || event == policy::Event::cut ||
         event == policy::Event::notice;
}

// The events of one file from number `first` on. Believes nothing in the file: a length, a string
// or a number out of range is dropped. Records that change while being read are read again, and
// dropped if they never hold still. The error is one line without the path.
tl::expected<ProcessLog, std::string> read_log(const std::string &path, const LogName &name,
                                               std::uint64_t first);

// When a process started, in clock ticks since boot; nothing when there is none.
std::optional<std::uint64_t> process_start_time(pid_t pid);

// True while the process that the file is named after lives.
bool is_alive(const LogName &name);

}  // namespace inlay::tools
