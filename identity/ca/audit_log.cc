#include "identity/ca/audit_log.h"

#include <array>

namespace inlay::identity::ca {
namespace {

std::array<rpc::EventField, 7> fields_of(const AuditRecord &record) {
  return {{{"node", record.node},
           {"address", record.address},
           {"spiffe_id", record.spiffe_id},
           {"serial", record.serial},
           {"reason", record.reason},
           {"detail", record.detail},
           {"by", record.by}}};
}

}  // namespace

std::string audit_line(const AuditRecord &record) {
  return rpc::event_line(record.event, fields_of(record));
}

void AuditLog::write(const AuditRecord &record) { events_.write(record.event, fields_of(record)); }

}  // namespace inlay::identity::ca
