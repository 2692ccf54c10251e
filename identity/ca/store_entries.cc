// Store: entries, and the bundles of other trust domains.
#include <fmt/format.h>
#include <openssl/rand.h>

#include <array>

#include "identity/ca/store_sql.h"
#include "identity/certificate.h"
#include "identity/spiffe_id.h"
#include "identity/trust_domain_bundle.h"
#include "policy/glob.h"

namespace inlay::identity::ca {
namespace {

constexpr std::string_view kColumns =
    "id, spiffe_id, nodes, selectors, policy, hint, svid_ttl, workload_api, refuse_traced,"
    " federates_with, created_at";

Entry entry_of(const Row &row) {
  return {.id = row.text(0),
          .spiffe_id = row.text(1),
          .nodes = row.text(2),
          .selectors = split(row.text(3)),
          .policy = row.text(4),
          .hint = row.text(5),
          .svid_ttl = static_cast<std::uint32_t>(row.number(6)),
          .workload_api = row.number(7) != 0,
          .refuse_traced = row.number(8) != 0,
          .federates_with = split(row.text(9)),
          .created_at = row.number(10)};
}

std::string new_id() {
  std::array<unsigned char, 6> bytes{};
  if (RAND_bytes_ex(library_context(), bytes.data(), bytes.size(), 0) != 1) return {};
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

}  // namespace

bool Entry::for_node(std::string_view node) const noexcept {
  return policy::glob_matches(nodes, node);
}

Stored<Entry> Store::add_entry(Entry entry) {
  const auto id = SpiffeId::parse(entry.spiffe_id);
  if (!id || id->path().empty()) {
    return store_failure(StoreProblem::refused,
                         fmt::format("\"{}\" is no workload's", printable(entry.spiffe_id)));
  }
  if (id->path() == "/inlay" || id->path().starts_with("/inlay/")) {
    return store_failure(StoreProblem::refused,
                         fmt::format("{} is below /inlay/, which is for machines and the authority "
                                     "itself: choose another path",
                                     id->uri()));
  }
  entry.id = new_id();
  if (entry.id.empty()) return store_failure(StoreProblem::internal, "OpenSSL has no random bytes");
  return in_transaction(*database_, [&](Statements &run) -> Stored<Entry> {
    const Rows added =
        run("INSERT INTO entries (id, spiffe_id, nodes, selectors, policy, hint, svid_ttl,"
            " workload_api, refuse_traced, federates_with, created_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
            " ON CONFLICT (spiffe_id, nodes, selectors) DO NOTHING RETURNING id",
            {cell(entry.id), cell(entry.spiffe_id), cell(entry.nodes),
             cell(joined(entry.selectors)), cell(entry.policy), cell(entry.hint),
             std::int64_t{entry.svid_ttl}, cell(entry.workload_api), cell(entry.refuse_traced),
             cell(joined(entry.federates_with)), cell(entry.created_at)});
    if (run.failed()) return entry;
    if (added.empty()) {
      return store_failure(StoreProblem::exists,
                           fmt::format("there is an entry for {} on {} with these selectors "
                                       "already: remove it first (inlay ca entry list)",
                                       entry.spiffe_id, entry.nodes));
    }
    run.raise_generation();
    return entry;
  });
}

Stored<std::vector<Entry>> Store::entries() const {
  return in_transaction(*database_, [](Statements &run) -> Stored<std::vector<Entry>> {
    std::vector<Entry> out;
    for (const Row &row :
         run(fmt::format("SELECT {} FROM entries ORDER BY created_at, id", kColumns))) {
      out.push_back(entry_of(row));
    }
    return out;
  });
}

Stored<std::vector<Entry>> Store::entries_of(std::string_view node) const {
  auto all = entries();
  if (all) std::erase_if(*all, [&](const Entry &entry) { return !entry.for_node(node); });
  return all;
}

Stored<Entry> Store::remove_entry(std::string_view id) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<Entry> {
    const Rows removed =
        run(fmt::format("DELETE FROM entries WHERE id = $1 RETURNING {}", kColumns), {cell(id)});
    if (removed.empty()) {
      return store_failure(
          StoreProblem::not_found,
          fmt::format("there is no entry \"{}\": see inlay ca entry list", printable(id)));
    }
    run.raise_generation();
    return entry_of(removed[0]);
  });
}

Stored<void> Store::set_bundle(const FederatedBundle &bundle) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<void> {
    const Rows changed =
        run("INSERT INTO bundles (trust_domain, document, changed_at) VALUES ($1, $2, $3)"
            " ON CONFLICT (trust_domain) DO UPDATE SET document = excluded.document,"
            " changed_at = excluded.changed_at WHERE bundles.document <> excluded.document"
            " RETURNING trust_domain",
            {cell(bundle.trust_domain), cell(bundle.document), cell(bundle.changed_at)});
    if (!changed.empty()) run.raise_generation();
    return {};
  });
}

Stored<void> Store::advance_bundle(const FederatedBundle &bundle) {
  const auto fresh = parse_trust_domain_bundle(bundle.document);
  if (!fresh) return store_failure(StoreProblem::internal, fresh.error().message);
  return in_transaction(*database_, [&](Statements &run) -> Stored<void> {
    if (!run("INSERT INTO bundles (trust_domain, document, changed_at) VALUES ($1, $2, $3)"
             " ON CONFLICT (trust_domain) DO NOTHING RETURNING trust_domain",
             {cell(bundle.trust_domain), cell(bundle.document), cell(bundle.changed_at)})
             .empty()) {
      run.raise_generation();
      return {};
    }
    // Changing the row keeps others from it until this is done.
    const Rows held =
        run("UPDATE bundles SET trust_domain = trust_domain WHERE trust_domain = $1"
            " RETURNING document",
            {cell(bundle.trust_domain)});
    if (held.empty() || held[0].text(0) == bundle.document) return {};
    const auto before = parse_trust_domain_bundle(held[0].text(0));
    if (before && fresh->sequence < before->sequence) {
      return store_failure(
          StoreProblem::refused,
          fmt::format("its sequence number {} is lower than {}, which was seen before; if that is "
                      "right: inlay ca bundle remove {}",
                      fresh->sequence, before->sequence, printable(bundle.trust_domain)));
    }
    run("UPDATE bundles SET document = $2, changed_at = $3 WHERE trust_domain = $1",
        {cell(bundle.trust_domain), cell(bundle.document), cell(bundle.changed_at)});
    run.raise_generation();
    return {};
  });
}

Stored<std::vector<FederatedBundle>> Store::bundles() const {
  return in_transaction(*database_, [](Statements &run) -> Stored<std::vector<FederatedBundle>> {
    std::vector<FederatedBundle> out;
    for (const Row &row :
         run("SELECT trust_domain, document, changed_at FROM bundles ORDER BY trust_domain")) {
      out.push_back({row.text(0), row.text(1), row.number(2)});
    }
    return out;
  });
}

Stored<void> Store::remove_bundle(std::string_view trust_domain) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<void> {
    if (run("DELETE FROM bundles WHERE trust_domain = $1 RETURNING trust_domain",
            {cell(trust_domain)})
            .empty()) {
      return store_failure(StoreProblem::not_found,
                           fmt::format("there is no bundle of {}: see inlay ca bundle list",
                                       printable(trust_domain)));
    }
    run.raise_generation();
    return {};
  });
}

}  // namespace inlay::identity::ca
