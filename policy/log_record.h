// The layout of a process's log file: a fixed header, counters per reason and a ring of the last
// events, in one 0600 file mapped by its process and read by `inlay log`. Plain data only: written
// from hooks without allocation or locks.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "policy/reason.h"

namespace inlay::policy {

inline constexpr std::uint64_t kLogMagic = 0x31474f4c59414c4e;  // "NLAYLOG1", little-endian
inline constexpr std::uint32_t kLogVersion = 2;
inline constexpr std::uint32_t kLogRingSize = 256;  // events kept, a power of two

enum class Direction : std::uint8_t { none, inbound, outbound };
enum class Event : std::uint8_t {
  refused,    // a connection inlay did not let happen
  cut,        // a session ended by an error
  accepted,   // a session came up
  closed,     // a session ended normally
  plaintext,  // a connection let through in the clear
  notice,     // anything else worth a line
};

// As the log has them. "unknown" for a number that another version wrote.
std::string_view name(Direction direction) noexcept;
std::string_view name(Event event) noexcept;

// Strings are NUL-terminated, truncated to fit.
struct LogRecord {
  // 0 while being written, else the event's number + 1: a reader that sees it change mid-copy
  // drops the copy.
  std::atomic<std::uint64_t> sequence;
  std::int64_t time_ns;  // CLOCK_REALTIME
  std::uint32_t tid;
  Reason reason;
  Direction direction;
  Event event;
  std::uint8_t local_address[16];  // IPv6 or IPv4-mapped, network order
  std::uint8_t remote_address[16];
  std::uint16_t local_port;
  std::uint16_t remote_port;
  std::uint32_t fd;
  std::uint64_t bytes_in;  // application bytes, for closed and cut
  std::uint64_t bytes_out;
  // The name the kernel gave the program when it started: the last part of the path it was executed
  // by (redis-server, where the executable is a link to redis-check-rdb). Per event: a process that
  // executes another program goes on in the same file.
  char program[16];
  char rule[48];
  char peer_id[160];
  char detail[160];
};

struct LogFile {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t ring_size;
  std::uint32_t pid;
  std::uint32_t record_size;
  std::uint64_t start_time;  // of the process, clock ticks since boot (/proc/PID/stat field 22)
  char inlay_version[16];
  char executable[256];  // of the program that runs now, links followed
  char own_id[160];
  std::atomic<std::uint64_t> next;           // number of the next event
  std::atomic<std::uint64_t> counters[128];  // by Reason: connections
  LogRecord ring[kLogRingSize];
};
static_assert(kReasonCount <= 128);

}  // namespace inlay::policy
