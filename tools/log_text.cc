#include "tools/log_text.h"

#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::int64_t kNanosecond = 1'000'000'000;

struct SplitTime {
  std::time_t seconds;
  std::int64_t nanoseconds;  // 0 to 999999999 also before the epoch
};

SplitTime split(std::int64_t time_ns) {
  std::int64_t nanoseconds = time_ns % kNanosecond;
  std::int64_t seconds = time_ns / kNanosecond;
  if (nanoseconds < 0) {
    nanoseconds += kNanosecond;
    --seconds;
  }
  return {seconds, nanoseconds};
}

// Local time with milliseconds and the offset from UTC.
std::string local_time(std::int64_t time_ns) {
  SplitTime time = split(time_ns);
  std::tm broken{};
  ::localtime_r(&time.seconds, &broken);
  long minutes = broken.tm_gmtoff / 60;
  char sign = minutes < 0 ? '-' : '+';
  if (minutes < 0) minutes = -minutes;
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}{}{:02}:{:02}",
                     broken.tm_year + 1900, broken.tm_mon + 1, broken.tm_mday, broken.tm_hour,
                     broken.tm_min, broken.tm_sec, time.nanoseconds / 1'000'000, sign, minutes / 60,
                     minutes % 60);
}

// "" where the event has none: a zero port on a zero address.
std::string text_of(const policy::Endpoint &endpoint) {
  bool none = endpoint.port == 0 && (endpoint.address == policy::Address{});
  return none ? std::string() : endpoint.text();
}

// "127.0.0.1:6379 <- 127.0.0.1:40000" for an accepted connection.
std::string connection(const LogEvent &event) {
  std::string local = text_of(event.local);
  std::string remote = text_of(event.remote);
  if (local.empty() && remote.empty()) return {};
  std::string_view arrow = event.direction == policy::Direction::inbound ? "<-" : "->";
  return fmt::format("{} {} {}", local.empty() ? "?" : local, arrow, remote.empty() ? "?" : remote);
}

}  // namespace

std::string rfc3339(std::int64_t time_ns) {
  SplitTime time = split(time_ns);
  std::tm broken{};
  ::gmtime_r(&time.seconds, &broken);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", broken.tm_year + 1900,
                     broken.tm_mon + 1, broken.tm_mday, broken.tm_hour, broken.tm_min,
                     broken.tm_sec, time.nanoseconds);
}

std::string human_line(const ProcessLog &log, const LogEvent &event) {
  std::string program = event.program.empty()
                            ? log.executable.substr(log.executable.find_last_of('/') + 1)
                            : event.program;
  std::string line =
      fmt::format("{} {}[{}] {}", local_time(event.time_ns), program.empty() ? "?" : program,
                  log.pid, policy::name(event.event));
  std::string where = connection(event);
  if (!where.empty()) line += " " + where;
  if (!event.peer_id.empty()) line += " " + event.peer_id;
  if (!event.rule.empty()) line += fmt::format(" rule \"{}\"", event.rule);
  line += fmt::format(": {} ({})", policy::sentence(event.reason), policy::name(event.reason));
  if (!event.detail.empty()) line += ": " + event.detail;
  if (event.event == policy::Event::closed || event.event == policy::Event::cut) {
    line += fmt::format(", {} bytes in, {} bytes out", event.bytes_in, event.bytes_out);
  }
  return printable(line);
}

std::string json_line(const ProcessLog &log, const LogEvent &event) {
  nlohmann::ordered_json line;
  line["time"] = rfc3339(event.time_ns);
  line["pid"] = log.pid;
  line["executable"] = log.executable;
  line["program"] = event.program;
  line["event"] = policy::name(event.event);
  line["direction"] = policy::name(event.direction);
  line["reason"] = policy::name(event.reason);
  line["rule"] = event.rule;
  line["local"] = text_of(event.local);
  line["remote"] = text_of(event.remote);
  line["own_id"] = log.own_id;
  line["peer_id"] = event.peer_id;
  line["detail"] = event.detail;
  line["fd"] = event.fd;
  line["bytes_in"] = event.bytes_in;
  line["bytes_out"] = event.bytes_out;
  line["version"] = log.version;
  line["uid"] = log.owner;
  // A torn multi-byte character, or worse, becomes U+FFFD rather than an exception.
  return line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace inlay::tools
