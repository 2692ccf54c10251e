// Store: the SVIDs that were issued.
#include <fmt/format.h>

#include "identity/ca/store_sql.h"
#include "identity/certificate.h"

namespace inlay::identity::ca {
namespace {

// Seconds; clocks of others may be behind. A clock here that is set wrong must not cost what was
// revoked: its record is kept for longer than it is on a list.
constexpr std::time_t kListEnded = 3600, kKeepEnded = 86400;
constexpr std::string_view kColumns =
    "serial, spiffe_id, node, issuer, issued_at, not_after, revoked_at, reason";

Issuance issuance_of(const Row &row) {
  return {.serial = row.text(0),
          .spiffe_id = row.text(1),
          .node = row.text(2),
          .issuer = row.text(3),
          .issued_at = row.number(4),
          .not_after = row.number(5),
          .revoked_at = row.number(6),
          .reason = row.text(7)};
}

StoreError no_such_svid(std::string_view serial) {
  return {StoreProblem::not_found,
          fmt::format("no SVID in force has the serial number {}", printable(serial))};
}

std::optional<Issuance> find(Statements &run, std::string_view serial) {
  const Rows rows =
      run(fmt::format("SELECT {} FROM issued WHERE serial = $1", kColumns), {cell(serial)});
  return rows.empty() ? std::nullopt : std::optional(issuance_of(rows[0]));
}

// Whether the node may have something now. Its row stays locked until the end of the transaction:
// who revokes the node comes before, and is seen here, or after, and finds what is recorded.
Stored<void> judge(Statements &run, const Issuance &issuance, std::string_view by) {
  const Rows node = run("UPDATE nodes SET last_seen_at = $2 WHERE name = $1 RETURNING state",
                        {cell(issuance.node), cell(issuance.issued_at)});
  if (run.failed()) return {};
  if (node.empty() || static_cast<NodeState>(node[0].number(0)) != NodeState::enrolled) {
    return store_failure(
        StoreProblem::refused,
        fmt::format("the node {} is not enrolled (it is {})", printable(issuance.node),
                    node.empty() ? "unknown" : name(static_cast<NodeState>(node[0].number(0)))));
  }
  if (by.empty()) return {};
  const auto shown = find(run, by);
  if (run.failed()) return {};
  if (!shown || shown->node != issuance.node || shown->revoked_at != 0) {
    return store_failure(StoreProblem::refused,
                         fmt::format("the SVID {} of the node {} is revoked", printable(by),
                                     printable(issuance.node)));
  }
  return {};
}

}  // namespace

Stored<void> Store::record(const Issuance &issuance, std::string_view by, bool for_node) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<void> {
    if (!issuance.node.empty()) {
      if (auto good = judge(run, issuance, by); !good) return good;
    }
    run("INSERT INTO issued (serial, spiffe_id, node, issuer, issued_at, not_after, revoked_at,"
        " reason) VALUES ($1, $2, $3, $4, $5, $6, 0, '')",
        {cell(issuance.serial), cell(issuance.spiffe_id), cell(issuance.node),
         cell(issuance.issuer), cell(issuance.issued_at), cell(issuance.not_after)});
    if (for_node) {
      run("UPDATE nodes SET not_after = $2 WHERE name = $1",
          {cell(issuance.node), cell(issuance.not_after)});
    }
    return {};
  });
}

Stored<Issuance> Store::revoke_svid(std::string_view serial, std::string_view reason,
                                    std::time_t now) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<Issuance> {
    run("UPDATE issued SET revoked_at = $2, reason = $3 WHERE serial = $1 AND revoked_at = 0",
        {cell(serial), cell(now), cell(reason)});
    auto found = find(run, serial);
    if (!found) return tl::unexpected(no_such_svid(serial));
    run.raise_generation();
    return *found;
  });
}

Stored<Issuance> Store::issuance(std::string_view serial) const {
  return in_transaction(*database_, [&](Statements &run) -> Stored<Issuance> {
    auto found = find(run, serial);
    if (!found) return tl::unexpected(no_such_svid(serial));
    return *found;
  });
}

Stored<std::vector<Issuance>> Store::revoked(std::time_t now) const {
  return in_transaction(*database_, [&](Statements &run) -> Stored<std::vector<Issuance>> {
    std::vector<Issuance> out;
    for (const Row &row :
         run(fmt::format("SELECT {} FROM issued WHERE revoked_at <> 0 AND not_after >= $1"
                         " ORDER BY serial",
                         kColumns),
             {cell(now - kListEnded)})) {
      out.push_back(issuance_of(row));
    }
    return out;
  });
}

Stored<std::vector<Resting>> Store::resting_on(std::string_view root, std::time_t now) const {
  return in_transaction(*database_, [&](Statements &run) -> Stored<std::vector<Resting>> {
    std::vector<Resting> out;
    for (const Row &row :
         run("SELECT held.node, COUNT(DISTINCT held.spiffe_id), MAX(held.not_after)"
             " FROM issued AS held JOIN authorities AS its ON its.id = held.issuer"
             " WHERE $1 IN (its.id, its.issuer) AND held.node <> '' AND held.revoked_at = 0"
             " AND held.not_after >= $2 AND NOT EXISTS (SELECT 1 FROM issued AS fresh"
             " JOIN authorities AS other ON other.id = fresh.issuer"
             " WHERE fresh.node = held.node AND fresh.spiffe_id = held.spiffe_id"
             " AND fresh.revoked_at = 0 AND fresh.not_after >= $2"
             " AND fresh.issued_at >= held.issued_at AND other.state < $3"
             " AND $1 NOT IN (other.id, other.issuer))"
             " GROUP BY held.node ORDER BY held.node",
             {cell(root), cell(now), static_cast<std::int64_t>(AuthorityState::tainted)})) {
      out.push_back({row.text(0), static_cast<std::size_t>(row.number(1)), row.number(2)});
    }
    return out;
  });
}

Stored<std::size_t> Store::forget_ended(std::time_t now) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<std::size_t> {
    return run("DELETE FROM issued WHERE not_after < $1 RETURNING serial", {cell(now - kKeepEnded)})
        .size();
  });
}

}  // namespace inlay::identity::ca
