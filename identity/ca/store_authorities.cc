// Store: the authority's own keys and certificates.
#include <algorithm>

#include "identity/ca/store_sql.h"

namespace inlay::identity::ca {
namespace {

AuthorityRows read(Statements &run) {
  AuthorityRows out;
  for (const Row &row : run("SELECT id, kind, state, issuer, certificate, sealed_key, created_at,"
                            " changed_at, not_after FROM authorities ORDER BY created_at, id")) {
    out.push_back({.id = row.text(0),
                   .kind = static_cast<AuthorityKind>(row.number(1)),
                   .state = static_cast<AuthorityState>(row.number(2)),
                   .issuer = row.text(3),
                   .certificate = row.bytes(4),
                   .sealed_key = row.bytes(5),
                   .created_at = row.number(6),
                   .changed_at = row.number(7),
                   .not_after = row.number(8)});
  }
  return out;
}

void write(Statements &run, const AuthorityRow &row) {
  run("INSERT INTO authorities (id, kind, state, issuer, certificate, sealed_key, created_at,"
      " changed_at, not_after) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
      " ON CONFLICT (id) DO UPDATE SET state = excluded.state, sealed_key = excluded.sealed_key,"
      " changed_at = excluded.changed_at",
      {cell(row.id), static_cast<std::int64_t>(row.kind), static_cast<std::int64_t>(row.state),
       cell(row.issuer), blob(row.certificate), blob(row.sealed_key), cell(row.created_at),
       cell(row.changed_at), cell(row.not_after)});
}

}  // namespace

Stored<AuthorityRows> Store::authorities() const {
  return in_transaction(*database_,
                        [](Statements &run) -> Stored<AuthorityRows> { return read(run); });
}

Stored<AuthorityRows> Store::change_authorities(const AuthorityChange &change) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<AuthorityRows> {
    run.exclude_others();
    const AuthorityRows before = read(run);
    AuthorityRows after = before;
    if (run.failed()) return after;
    if (auto changed = change(after); !changed) return tl::unexpected(std::move(changed.error()));
    if (after == before) return after;
    for (const AuthorityRow &row : after) {
      if (std::find(before.begin(), before.end(), row) == before.end()) write(run, row);
    }
    run.raise_generation();
    return after;
  });
}

}  // namespace inlay::identity::ca
