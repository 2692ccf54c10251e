// Where reasons go: the process's log file (policy/log_record.h), mapped, and the JSON lines the
// configuration may ask for. Never stdout or stderr.
//
// log_event() may be called from any thread and from signal handlers: it is wait-free, unless it is
// the first event after a fork (the file is made anew) or JSON lines are on (one system call
// sequence per event).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "policy/log_record.h"

namespace inlay::shim::boot {

struct LogFields {
  policy::Event event = policy::Event::notice;
  policy::Reason reason = policy::Reason::none;
  policy::Direction direction = policy::Direction::none;
  int fd = -1;
  std::uint8_t local_address[16] = {};  // network order, IPv4 mapped
  std::uint8_t remote_address[16] = {};
  std::uint16_t local_port = 0;  // host order
  std::uint16_t remote_port = 0;
  std::uint64_t bytes_in = 0;
  std::uint64_t bytes_out = 0;
  std::string_view rule;
  std::string_view peer_id;
  std::string_view detail;
};

void log_event(const LogFields &fields) noexcept;

// The header's own_id; shown from then on.
void log_own_id(std::string_view id) noexcept;
// The same where no ID is known yet.
void log_own_id_if_none(std::string_view id) noexcept;

// Makes the file. `json_file`: "" for none; must live as long as the process.
void start_log(const char *json_file) noexcept;

// Makes this process's file if it has none yet: soon it may not open one any more.
void open_log() noexcept;

// At normal exit: a file that recorded nothing is removed.
void end_log() noexcept;

}  // namespace inlay::shim::boot
