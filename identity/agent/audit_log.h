// The audit log: one line of JSON for each signature and each refusal, and for what the agent
// itself has to say. To a file, or to standard error, which systemd keeps in its journal.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/agent/entry.h"
#include "identity/agent/metrics.h"
#include "identity/agent/workload.h"
#include "identity/rpc/event_log.h"
#include "identity/rpc/rate_limit.h"

namespace inlay::identity::agent {

struct AuditRecord {
  std::string_view event;  // "signature", "attached", "refused", "cut-off", "fetched"
  Caller caller;
  std::string_view executable = {};  // "" where it is not known
  std::string_view request = {};     // what was asked for: "attach", "sign", "FetchX509SVID"
  std::string_view spiffe_id = {};
  std::string_view role = {};    // of a signature: "client", "server"
  std::string_view reason = {};  // name of an AgentRefusal, or gRPC's of a status
  std::string_view detail = {};
};

class AuditLog {
 public:
  explicit AuditLog(Counters &counters) : events_("agent", counters.lost_log_lines) {}

  tl::expected<void, std::string> open(const std::string &file) { return events_.open(file); }

  // Any thread. Of refusals one user can cause so many a second; the next line says how many there
  // were more.
  void write(const AuditRecord &record);
  using Level = rpc::EventLog::Level;
  void note(Level level, std::string_view message) { events_.note(level, message); }

 private:
  rpc::EventLog events_;
  rpc::RateLimit<uid_t> refusals_{50, 500};
  std::mutex mutex_;
  std::map<uid_t, std::uint64_t> not_written_;  // refusals beyond the limit
};

}  // namespace inlay::identity::agent
