#include "identity/rpc/event_log.h"

#include <fmt/format.h>

#include <array>
#include <ctime>
#include <nlohmann/json.hpp>

#include "identity/certificate.h"

namespace inlay::identity::rpc {
namespace {

using Json = nlohmann::ordered_json;

std::string note_line(std::string_view event, EventLog::Level level, std::string_view message) {
  static constexpr std::array<std::string_view, 3> kNames{"info", "warning", "error"};
  const EventField fields[] = {{"level", kNames.at(static_cast<std::size_t>(level))},
                               {"message", message}};
  return event_line(event, fields);
}

}  // namespace

// Names and paths are other people's bytes, and need not be UTF-8.
std::string event_line(std::string_view event, std::span<const EventField> fields) {
  Json json = {{"time", time_text(std::time(nullptr))}, {"event", event}};
  for (const EventField &field : fields) {
    if (const auto *number = std::get_if<std::int64_t>(&field.value)) {
      json[std::string(field.key)] = *number;
    } else if (const auto text = std::get<std::string_view>(field.value); !text.empty()) {
      json[std::string(field.key)] = text;
    }
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

void EventLog::tell_of_lost_lines() {
  const std::uint64_t lines = untold_.exchange(0);
  if (lines == 0) return;
  const std::string told = fmt::format("{} lines of this log could not be written", lines);
  if (!lines_.write(note_line(own_, Level::error, told))) untold_ += lines;
}

void EventLog::write(std::string_view event, std::span<const EventField> fields) {
  try {
    tell_of_lost_lines();
    if (lines_.write(event_line(event, fields))) return;
  } catch (const std::exception &) {  // bad_alloc
  }
  ++lost_;
  ++untold_;
}

void EventLog::note(Level level, std::string_view message) {
  try {
    tell_of_lost_lines();
    if (lines_.write(note_line(own_, level, message))) return;
  } catch (const std::exception &) {
  }
  ++lost_;
  ++untold_;
}

}  // namespace inlay::identity::rpc
