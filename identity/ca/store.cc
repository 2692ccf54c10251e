#include "identity/ca/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "identity/ca/store_sql.h"

namespace inlay::identity::ca {
namespace {

constexpr std::int64_t kSchemaVersion = 1;

// Times are seconds since the epoch; flags 0 or 1; digests 32 bytes. Lists are lines of text.
constexpr std::array kSchema{
    "CREATE TABLE IF NOT EXISTS meta ("
    " name TEXT PRIMARY KEY, number BIGINT NOT NULL, text TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS authorities ("
    " id TEXT PRIMARY KEY, kind BIGINT NOT NULL, state BIGINT NOT NULL, issuer TEXT NOT NULL,"
    " certificate BYTEA NOT NULL, sealed_key BYTEA NOT NULL, created_at BIGINT NOT NULL,"
    " changed_at BIGINT NOT NULL, not_after BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tokens ("
    " secret_digest BYTEA PRIMARY KEY, node TEXT NOT NULL, created_at BIGINT NOT NULL,"
    " expires_at BIGINT NOT NULL, used_at BIGINT, used_key BYTEA)",
    "CREATE TABLE IF NOT EXISTS nodes ("
    " name TEXT PRIMARY KEY, state BIGINT NOT NULL, key_digest BYTEA NOT NULL,"
    " hostname TEXT NOT NULL, address TEXT NOT NULL, enrolled_at BIGINT NOT NULL,"
    " last_seen_at BIGINT NOT NULL, not_after BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS entries ("
    " id TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, nodes TEXT NOT NULL, selectors TEXT NOT NULL,"
    " policy TEXT NOT NULL, hint TEXT NOT NULL, svid_ttl BIGINT NOT NULL,"
    " workload_api BIGINT NOT NULL, refuse_traced BIGINT NOT NULL, federates_with TEXT NOT NULL,"
    " created_at BIGINT NOT NULL, UNIQUE (spiffe_id, nodes, selectors))",
    "CREATE TABLE IF NOT EXISTS issued ("
    " serial TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, node TEXT NOT NULL, issuer TEXT NOT NULL,"
    " issued_at BIGINT NOT NULL, not_after BIGINT NOT NULL, revoked_at BIGINT NOT NULL,"
    " reason TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS issued_by_node ON issued (node)",
    "CREATE INDEX IF NOT EXISTS issued_by_end ON issued (not_after)",
    "CREATE INDEX IF NOT EXISTS issued_revoked ON issued (revoked_at) WHERE revoked_at <> 0",
    "CREATE TABLE IF NOT EXISTS bundles ("
    " trust_domain TEXT PRIMARY KEY, document TEXT NOT NULL, changed_at BIGINT NOT NULL)",
    "INSERT INTO meta (name, number, text) VALUES ('generation', 1, '') ON CONFLICT DO NOTHING",
};

template <std::size_t Size>
std::string_view name_in(const std::array<std::string_view, Size> &names, std::size_t index) {
  return index < Size ? names[index] : std::string_view("?");
}

}  // namespace

std::string_view name(AuthorityKind kind) noexcept {
  static constexpr std::array<std::string_view, 3> kNames{"root", "intermediate", "jwt"};
  return name_in(kNames, static_cast<std::size_t>(kind));
}

std::string_view name(AuthorityState state) noexcept {
  static constexpr std::array<std::string_view, 5> kNames{"prepared", "active", "retired",
                                                          "tainted", "revoked"};
  return name_in(kNames, static_cast<std::size_t>(state));
}

std::string_view name(NodeState state) noexcept {
  static constexpr std::array<std::string_view, 4> kNames{"enrolled", "waiting", "approved",
                                                          "revoked"};
  return name_in(kNames, static_cast<std::size_t>(state));
}

std::string_view name(TokenRefusal refusal) noexcept {
  static constexpr std::array<std::string_view, 3> kNames{"unknown", "expired", "used"};
  return name_in(kNames, static_cast<std::size_t>(refusal));
}

std::string joined(const std::vector<std::string> &words) {
  return fmt::format("{}", fmt::join(words, "\n"));
}

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    words.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

Stored<Store> Store::open(DatabasePtr database, std::string_view trust_domain) {
  const std::string where = database->name();
  auto made = in_transaction(*database, [&](Statements &run) -> Stored<void> {
    run.exclude_others();  // CREATE IF NOT EXISTS of two servers at once would fail in PostgreSQL
    for (const char *statement : kSchema) run(statement);
    run("INSERT INTO meta (name, number, text) VALUES ('schema', $1, ''), ('trust domain', 0, $2)"
        " ON CONFLICT DO NOTHING",
        {kSchemaVersion, cell(trust_domain)});
    const Rows version = run("SELECT number FROM meta WHERE name = 'schema'");
    const Rows domain = run("SELECT text FROM meta WHERE name = 'trust domain'");
    if (version.empty() || domain.empty()) return {};
    if (version[0].number(0) > kSchemaVersion) {
      return store_failure(
          StoreProblem::refused,
          fmt::format("the database {} was made by a newer version of inlay: use that", where));
    }
    if (domain[0].text(0) != trust_domain) {
      return store_failure(StoreProblem::refused,
                           fmt::format("the database {} is of the trust domain {}, the "
                                       "configuration says {}: one of the two is the wrong file",
                                       where, domain[0].text(0), trust_domain));
    }
    return {};
  });
  if (!made) return tl::unexpected(std::move(made.error()));
  return Store(std::move(database));
}

Stored<std::uint64_t> Store::generation() const {
  return in_transaction(*database_, [](Statements &run) -> Stored<std::uint64_t> {
    const Rows rows = run("SELECT number FROM meta WHERE name = 'generation'");
    return rows.empty() ? 0 : static_cast<std::uint64_t>(rows[0].number(0));
  });
}

}  // namespace inlay::identity::ca
