#include "identity/agent/audit_log.h"

#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "identity/agent/clock.h"
#include "identity/certificate.h"

namespace inlay::identity::agent {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostCounted = 1024;  // users with refusals that were not written

std::int64_t monotonic_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Paths are other people's bytes, and need not be UTF-8.
std::string line_of(const Json &json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

tl::expected<void, std::string> AuditLog::open(const std::string &file) { return lines_.open(file); }

void AuditLog::write(const AuditRecord &record) {
  std::uint64_t more = 0;
  if (record.event == "refused" || record.event == "cut-off") {
    const bool allowed = refusals_.take(record.caller.uid, monotonic_ns());
    std::lock_guard lock(mutex_);
    auto found = not_written_.find(record.caller.uid);
    if (!allowed) {
      if (found != not_written_.end()) {
        ++found->second;
      } else if (not_written_.size() < kMostCounted) {
        not_written_.emplace(record.caller.uid, 1);
      }
      return;
    }
    if (found != not_written_.end()) {
      more = found->second;
      not_written_.erase(found);
    }
  }
  try {
    Json json = {{"time", time_text(std::time(nullptr))},
                 {"event", record.event},
                 {"pid", record.caller.pid},
                 {"uid", record.caller.uid}};
    auto add = [&](const char *key, std::string_view value) {
      if (!value.empty()) json[key] = value;
    };
    add("executable", record.executable);
    add("request", record.request);
    add("spiffe_id", record.spiffe_id);
    add("role", record.role);
    add("reason", record.reason);
    add("detail", record.detail);
    if (more != 0) json["further_refusals_of_this_user"] = more;
    write_line(line_of(json));
  } catch (const std::exception &) {  // bad_alloc
    ++counters_.lost_log_lines;
  }
}

void AuditLog::note(Level level, std::string_view message) {
  static constexpr const char *kNames[] = {"info", "warning", "error"};
  try {
    write_line(line_of({{"time", time_text(std::time(nullptr))},
                        {"event", "agent"},
                        {"level", kNames[static_cast<std::size_t>(level)]},
                        {"message", message}}));
  } catch (const std::exception &) {
    ++counters_.lost_log_lines;
  }
}

void AuditLog::write_line(std::string line) {
  if (!lines_.write(std::move(line))) ++counters_.lost_log_lines;
}

}  // namespace inlay::identity::agent
