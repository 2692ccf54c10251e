// Store: tokens, and the nodes that come with them.
#include <fmt/format.h>

#include "identity/ca/store_sql.h"
#include "identity/certificate.h"

namespace inlay::identity::ca {
namespace {

constexpr std::time_t kKeepTokens = 86400;  // seconds after their end, for the reason of a refusal
constexpr std::string_view kNodeColumns =
    "name, state, key_digest, hostname, address, enrolled_at, last_seen_at, not_after";

std::int64_t number(NodeState state) { return static_cast<std::int64_t>(state); }

Node node_of(const Row &row) {
  return {.name = row.text(0),
          .state = static_cast<NodeState>(row.number(1)),
          .key_digest = row.bytes(2),
          .hostname = row.text(3),
          .address = row.text(4),
          .enrolled_at = row.number(5),
          .last_seen_at = row.number(6),
          .not_after = row.number(7)};
}

// Locks the node's row until the end of the transaction: what is issued to it and what revokes it
// come one after the other. PostgreSQL has FOR UPDATE, SQLite has not; both have this.
std::optional<Node> locked(Statements &run, std::string_view name) {
  const Rows rows =
      run(fmt::format("UPDATE nodes SET name = name WHERE name = $1 RETURNING {}", kNodeColumns),
          {cell(name)});
  return rows.empty() ? std::nullopt : std::optional(node_of(rows[0]));
}

StoreError no_such_node(std::string_view name) {
  return {StoreProblem::not_found,
          fmt::format("there is no node \"{}\": see inlay ca agents", printable(name))};
}

std::size_t revoke_svids_of(Statements &run, std::string_view node, std::string_view reason,
                            std::time_t now) {
  return run("UPDATE issued SET revoked_at = $2, reason = $3"
             " WHERE node = $1 AND revoked_at = 0 AND not_after >= $2 RETURNING serial",
             {cell(node), cell(now), cell(reason)})
      .size();
}

// After the token could not be spent anew.
tl::expected<Enrolled, TokenRefusal> judge_again(Statements &run, const TokenUse &use) {
  const Rows rows =
      run("SELECT node, expires_at, used_at, used_key FROM tokens"
          " WHERE secret_digest = $1",
          {blob(use.secret_digest)});
  // A good secret with another's name is a guess, too.
  if (rows.empty() || (!use.node.empty() && rows[0].text(0) != use.node)) {
    return tl::unexpected(TokenRefusal::unknown);
  }
  const bool same_key = !rows[0].null(2) && rows[0].bytes(3) == use.key_digest;
  if (!rows[0].null(2) && !same_key) return tl::unexpected(TokenRefusal::used);
  if (rows[0].number(1) <= use.now) return tl::unexpected(TokenRefusal::expired);
  const auto node = locked(run, rows[0].text(0));
  // Revoked since, or enrolled anew by another token: this one is spent.
  if (!same_key || !node || node->state != NodeState::enrolled ||
      node->key_digest != use.key_digest) {
    return tl::unexpected(TokenRefusal::used);
  }
  return Enrolled{node->name, true};
}

}  // namespace

Stored<void> Store::add_token(const Token &token) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<void> {
    run("DELETE FROM tokens WHERE expires_at < $1", {cell(token.created_at - kKeepTokens)});
    run("INSERT INTO tokens (secret_digest, node, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        {blob(token.secret_digest), cell(token.node), cell(token.created_at),
         cell(token.expires_at)});
    return {};
  });
}

Stored<tl::expected<Enrolled, TokenRefusal>> Store::enroll(const TokenUse &use) {
  using Outcome = tl::expected<Enrolled, TokenRefusal>;
  return in_transaction(*database_, [&](Statements &run) -> Stored<Outcome> {
    // Of several at once the first changes the row; the others wait for it and then find no row
    // that is still unused.
    const Rows spent =
        run("UPDATE tokens SET used_at = $2, used_key = $3 WHERE secret_digest = $1"
            " AND used_at IS NULL AND expires_at > $2 AND $4 IN ('', node) RETURNING node",
            {blob(use.secret_digest), cell(use.now), blob(use.key_digest), cell(use.node)});
    if (run.failed()) return Outcome(Enrolled{});
    if (spent.empty()) return judge_again(run, use);
    const std::string node = spent[0].text(0);
    const auto before = locked(run, node);
    if (before && before->key_digest != use.key_digest) {
      revoke_svids_of(run, node, "enrolled anew with another key", use.now);
    }
    run("INSERT INTO nodes (name, state, key_digest, hostname, address, enrolled_at, last_seen_at,"
        " not_after) VALUES ($1, $2, $3, $4, $5, $6, $6, 0) ON CONFLICT (name) DO UPDATE SET"
        " state = excluded.state, key_digest = excluded.key_digest, hostname = excluded.hostname,"
        " address = excluded.address, enrolled_at = excluded.enrolled_at,"
        " last_seen_at = excluded.last_seen_at, not_after = 0",
        {cell(node), number(NodeState::enrolled), blob(use.key_digest), cell(use.hostname),
         cell(use.address), cell(use.now)});
    run.raise_generation();
    return Outcome(Enrolled{node, false});
  });
}

Stored<std::vector<Node>> Store::nodes() const {
  return in_transaction(*database_, [](Statements &run) -> Stored<std::vector<Node>> {
    std::vector<Node> out;
    for (const Row &row : run(fmt::format("SELECT {} FROM nodes ORDER BY name", kNodeColumns))) {
      out.push_back(node_of(row));
    }
    return out;
  });
}

Stored<Node> Store::node(std::string_view name) const {
  return in_transaction(*database_, [&](Statements &run) -> Stored<Node> {
    const Rows rows =
        run(fmt::format("SELECT {} FROM nodes WHERE name = $1", kNodeColumns), {cell(name)});
    if (rows.empty()) return tl::unexpected(no_such_node(name));
    return node_of(rows[0]);
  });
}

Stored<Node> Store::check_node(std::string_view name, std::string_view serial,
                               std::time_t now) const {
  const auto refused = [](std::string why) {
    return store_failure(StoreProblem::refused, std::move(why));
  };
  return in_transaction(*database_, [&](Statements &run) -> Stored<Node> {
    const Rows rows =
        run(fmt::format("SELECT its.*, shown.not_after, shown.revoked_at, authorities.state"
                        " FROM (SELECT {} FROM nodes WHERE name = $1) AS its"
                        " LEFT JOIN issued AS shown ON shown.serial = $2 AND shown.node = its.name"
                        " LEFT JOIN authorities ON authorities.id = shown.issuer",
                        kNodeColumns),
            {cell(name), cell(serial)});
    if (rows.empty()) {
      return refused(fmt::format("there is no node \"{}\" here", printable(name)));
    }
    Node found = node_of(rows[0]);
    if (found.state == NodeState::revoked) {
      return refused(fmt::format("the node {} is revoked", name));
    }
    if (rows[0].null(8) || rows[0].number(8) < now) {
      return refused(fmt::format("the SVID {} is none of the node {}, or ended long ago",
                                 printable(serial), name));
    }
    if (rows[0].number(9) != 0) {
      return refused(fmt::format("the SVID {} of the node {} is revoked", serial, name));
    }
    // A connection outlives the bundle that its certificate was verified by.
    if (!rows[0].null(10) &&
        static_cast<AuthorityState>(rows[0].number(10)) == AuthorityState::revoked) {
      return refused(
          fmt::format("the SVID {} of the node {} rests on a root that is revoked", serial, name));
    }
    return found;
  });
}

Stored<bool> Store::rejoin(std::string_view name, std::string_view key_digest, std::time_t now) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<bool> {
    const auto node = locked(run, name);
    if (run.failed()) return false;
    if (!node || node->state == NodeState::revoked || node->key_digest != key_digest) {
      const char *const why = !node                               ? "there is no such node"
                              : node->state == NodeState::revoked ? "it is revoked"
                                                                  : "it has another key";
      return store_failure(StoreProblem::refused,
                           fmt::format("the node {} may not rejoin: {}", printable(name), why));
    }
    if (node->state == NodeState::waiting) return false;
    const bool approved = node->state == NodeState::approved;
    if (!approved && node->not_after >= now) {
      return store_failure(StoreProblem::refused,
                           fmt::format("the node {} has an SVID until {}: it renews with that",
                                       name, time_text(node->not_after)));
    }
    run("UPDATE nodes SET state = $2 WHERE name = $1",
        {cell(name), number(approved ? NodeState::enrolled : NodeState::waiting)});
    run.raise_generation();
    return approved;
  });
}

Stored<void> Store::approve(std::string_view name) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<void> {
    const auto node = locked(run, name);
    if (run.failed()) return {};
    if (!node) return tl::unexpected(no_such_node(name));
    if (node->state == NodeState::approved) return {};
    if (node->state != NodeState::waiting) {
      return store_failure(StoreProblem::refused,
                           fmt::format("the node {} does not wait for approval: it is {}{}", name,
                                       ca::name(node->state),
                                       node->state == NodeState::revoked
                                           ? "; to have it back, give it a token (inlay ca token)"
                                           : ""));
    }
    run("UPDATE nodes SET state = $2 WHERE name = $1", {cell(name), number(NodeState::approved)});
    run.raise_generation();
    return {};
  });
}

Stored<std::size_t> Store::revoke_node(std::string_view name, std::string_view reason,
                                       std::time_t now) {
  return in_transaction(*database_, [&](Statements &run) -> Stored<std::size_t> {
    const auto node = locked(run, name);
    if (run.failed()) return 0;
    if (!node) return tl::unexpected(no_such_node(name));
    run("UPDATE nodes SET state = $2 WHERE name = $1", {cell(name), number(NodeState::revoked)});
    run("UPDATE tokens SET expires_at = $2 WHERE node = $1 AND expires_at > $2",
        {cell(name), cell(now)});
    const std::size_t count = revoke_svids_of(run, name, reason, now);
    run.raise_generation();
    return count;
  });
}

}  // namespace inlay::identity::ca
