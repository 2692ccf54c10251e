// A log of events, one line of JSON each: what the audit logs of the agent and of the authority
// are made of.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <variant>

#include "identity/rpc/line_log.h"

namespace inlay::identity::rpc {

struct EventField {
  std::string_view key;
  std::variant<std::string_view, std::int64_t> value;  // "" is left out
};

// The line, with its end; what is no UTF-8 is replaced. Throws bad_alloc.
std::string event_line(std::string_view event, std::span<const EventField> fields);

class EventLog {
 public:
  // `own` is the event of what the program itself has to say; `lost` counts lines that could not
  // be written.
  EventLog(std::string_view own, std::atomic<std::uint64_t> &lost) : own_(own), lost_(lost) {}

  // As LineLog::open().
  tl::expected<void, std::string> open(const std::string &file) { return lines_.open(file); }

  // Any thread. What cannot be written is lost and counted, and the next line that can says so;
  // nothing else depends on it: a full disk must not end service.
  void write(std::string_view event, std::span<const EventField> fields);
  enum class Level : std::uint8_t { info, warning, error };
  void note(Level level, std::string_view message);

 private:
  void tell_of_lost_lines();

  const std::string_view own_;
  std::atomic<std::uint64_t> &lost_;
  std::atomic<std::uint64_t> untold_ = 0;  // lost since the last line that was written
  LineLog lines_;
};

}  // namespace inlay::identity::rpc
