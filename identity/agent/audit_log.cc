#include "identity/agent/audit_log.h"

#include <iterator>
#include <span>

#include "identity/rpc/monotonic.h"

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kMostCounted = 1024;  // users with refusals that were not written

}  // namespace

void AuditLog::write(const AuditRecord &record) {
  std::uint64_t more = 0;
  if (record.event == "refused" || record.event == "cut-off") {
    const bool allowed = refusals_.take(record.caller.uid, rpc::monotonic_ns());
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
  const rpc::EventField fields[] = {
      {"pid", record.caller.pid},
      {"uid", record.caller.uid},
      {"executable", record.executable},
      {"request", record.request},
      {"spiffe_id", record.spiffe_id},
      {"role", record.role},
      {"reason", record.reason},
      {"detail", record.detail},
      {"further_refusals_of_this_user", static_cast<std::int64_t>(more)},
  };
  events_.write(record.event, std::span(fields).first(std::size(fields) - (more == 0 ? 1 : 0)));
}

}  // namespace inlay::identity::agent
