#include "identity/ca/audit_log.h"

#include <array>
#include <ctime>
#include <nlohmann/json.hpp>

#include "identity/certificate.h"

namespace inlay::identity::ca {
namespace {

using Json = nlohmann::ordered_json;

// Names are other people's bytes, and need not be UTF-8.
std::string line_of(const Json &json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string audit_line(const AuditRecord &record) {
  Json json = {{"time", time_text(std::time(nullptr))}, {"event", record.event}};
  const auto add = [&](const char *key, std::string_view value) {
    if (!value.empty()) json[key] = value;
  };
  add("node", record.node);
  add("address", record.address);
  add("spiffe_id", record.spiffe_id);
  add("serial", record.serial);
  add("reason", record.reason);
  add("detail", record.detail);
  add("by", record.by);
  return line_of(json);
}

void AuditLog::write(const AuditRecord &record) {
  try {
    if (!lines_.write(audit_line(record))) ++lost_;
  } catch (const std::exception &) {  // bad_alloc
    ++lost_;
  }
}

void AuditLog::note(Level level, std::string_view message) {
  static constexpr std::array kNames{"info", "warning", "error"};
  try {
    const Json json = {{"time", time_text(std::time(nullptr))},
                       {"event", "authority"},
                       {"level", kNames.at(static_cast<std::size_t>(level))},
                       {"message", message}};
    if (!lines_.write(line_of(json))) ++lost_;
  } catch (const std::exception &) {
    ++lost_;
  }
}

}  // namespace inlay::identity::ca
