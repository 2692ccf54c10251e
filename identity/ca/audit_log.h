// The audit log of the authority: one line of JSON for each token, node, SVID, refusal and change
// of its keys.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/rpc/event_log.h"

namespace inlay::identity::ca {

// What is "" is left out of the line.
struct AuditRecord {
  // Of the server: "enrolled", "renewed", "rejoined", "issued", "issued-jwt", "refused",
  // "bundle-fetched". Of an administrator's command: "token", "entry-added", "entry-removed",
  // "approved", "revoked", "rotated", "bundle-set", "bundle-removed".
  std::string_view event;
  std::string_view node = {};     // its name
  std::string_view address = {};  // of who asked
  std::string_view spiffe_id = {};
  std::string_view serial = {};
  std::string_view reason = {};  // of a refusal or revocation: more than who asked was told
  std::string_view detail = {};
  std::string_view by = {};  // the administrator: his user's name
};

// The line that write() writes.
std::string audit_line(const AuditRecord &record);

class AuditLog {
 public:
  tl::expected<void, std::string> open(const std::string &file) { return events_.open(file); }

  // Any thread.
  void write(const AuditRecord &record);
  using Level = rpc::EventLog::Level;
  void note(Level level, std::string_view message) { events_.note(level, message); }

  std::uint64_t lost() const noexcept { return lost_; }  // lines

 private:
  std::atomic<std::uint64_t> lost_ = 0;
  rpc::EventLog events_{"authority", lost_};
};

}  // namespace inlay::identity::ca
