// What the authority keeps: its keys (sealed), tokens, nodes, entries, SVIDs issued, bundles of
// others. Several servers and commands may work on one store at a time; each operation here is done
// whole or not at all. Any thread.
//
// Every change that a server or an agent must hear of raises generation(), in the same
// transaction. What is only a record (an SVID issued, a token made) does not.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/database.h"

namespace inlay::identity::ca {

enum class StoreProblem : std::uint8_t {
  unavailable,  // or busy: the same again later may do
  corrupt,
  not_found,
  exists,   // already
  refused,  // the state of what it is about does not allow it
  internal,
};
struct StoreError {
  StoreProblem problem = StoreProblem::internal;
  std::string message;  // one line: what, where, what to do
};
template <typename T>
using Stored = tl::expected<T, StoreError>;

// --- Keys and certificates of the authority (rotation.h says what their life is)

enum class AuthorityKind : std::uint8_t { root, intermediate, jwt };
enum class AuthorityState : std::uint8_t {
  prepared,  // in the bundle, signs nothing yet
  active,    // signs; one of each kind at most
  retired,   // signs nothing new; what it signed is good until it ends
  tainted,   // in the bundle for the time being; what it signed is to be replaced at once
  revoked,   // out of the bundle
};
std::string_view name(AuthorityKind kind) noexcept;    // "root"
std::string_view name(AuthorityState state) noexcept;  // "prepared"

struct AuthorityRow {
  std::string id;  // 16 hexadecimal digits
  AuthorityKind kind = AuthorityKind::root;
  AuthorityState state = AuthorityState::prepared;
  std::string issuer;       // id of the root an intermediate is under; "" for others and upstream's
  std::string certificate;  // DER; of a JWT key the public key (SubjectPublicKeyInfo)
  std::string sealed_key;   // seal.h; "" once it is revoked: nobody will need it again
  std::time_t created_at = 0;
  std::time_t changed_at = 0;  // its state
  std::time_t not_after = 0;
  bool operator==(const AuthorityRow &) const = default;
};
using AuthorityRows = std::vector<AuthorityRow>;

// --- Tokens and nodes

struct Token {
  std::string secret_digest;  // SHA-256 of the secret, 32 bytes; the secret itself is not kept
  std::string node;           // the name it is good for
  std::time_t created_at = 0;
  std::time_t expires_at = 0;
};

enum class NodeState : std::uint8_t {
  enrolled,
  waiting,   // its SVID ended and it has come back: an administrator has to approve
  approved,  // it may rejoin with the key it had
  revoked,
};
std::string_view name(NodeState state) noexcept;

struct Node {
  std::string name;  // one segment of a SPIFFE ID's path
  NodeState state = NodeState::enrolled;
  std::string key_digest;  // SHA-256 of its public key (SubjectPublicKeyInfo), 32 bytes
  std::string hostname;    // as it calls itself: for people, trusted by nobody
  std::string address;     // where it enrolled from
  std::time_t enrolled_at = 0;
  std::time_t last_seen_at = 0;  // was issued something
  std::time_t not_after = 0;     // of its own newest SVID; 0 before there was one
};

// What comes with a token, at `now`.
struct TokenUse {
  std::string secret_digest;
  std::string key_digest;  // of the key the node has proved to hold
  std::string hostname;
  std::string address;
  std::time_t now = 0;
  std::string node = {};  // which the token must be for; "" = any
};
// Why a token does not count. For the audit log: whoever came is told one thing for all.
enum class TokenRefusal : std::uint8_t { unknown, expired, used };
std::string_view name(TokenRefusal refusal) noexcept;
struct Enrolled {
  std::string node;
  bool again = false;  // the same token with the same key: an answer was lost on its way
};

// --- Entries

struct Entry {
  std::string id;                      // 12 hexadecimal digits; made by add_entry()
  std::string spiffe_id;               // of a workload of this trust domain, not below /inlay/
  std::string nodes;                   // which nodes have it: a name or a pattern (policy/glob.h)
  std::vector<std::string> selectors;  // "user=redis"; selectors.h
  std::string policy;                  // TOML; "" = none
  std::string hint;
  std::uint32_t svid_ttl = 0;  // seconds; 0 = as the configuration says
  bool workload_api = true;
  bool refuse_traced = false;
  std::vector<std::string> federates_with;  // trust domains
  std::time_t created_at = 0;
  bool for_node(std::string_view node) const noexcept;
  bool operator==(const Entry &) const = default;
};

// --- What was issued

struct Issuance {
  std::string serial;  // of the certificate, lower-case hexadecimal (serial_text() of signer.h)
  std::string spiffe_id;
  std::string node;    // who got it; "" for the authority's own
  std::string issuer;  // id of the intermediate (or root) that signed it
  std::time_t issued_at = 0;
  std::time_t not_after = 0;
  std::time_t revoked_at = 0;  // 0: it is not
  std::string reason;          // of that, for people
};

// A machine with SVIDs that are good and rest on a root, and that it has nothing newer for.
struct Resting {
  std::string node;
  std::size_t svids = 0;  // different SPIFFE IDs
  std::time_t until = 0;  // when the last of them ends
  bool operator==(const Resting &) const = default;
};

struct FederatedBundle {
  std::string trust_domain;
  std::string document;  // SPIFFE JSON or PEM; parse_trust_domain_bundle() takes it
  std::time_t changed_at = 0;
};

class Store {
 public:
  // Makes the tables when they are not there. Refuses a database of another trust domain, and one
  // that a newer version has made.
  static Stored<Store> open(DatabasePtr database, std::string_view trust_domain);

  // Raised by every change; starts at 1. SPIFFE's sequence number of the bundle.
  Stored<std::uint64_t> generation() const;
  std::string name() const { return database_->name(); }  // for messages

  // -- authorities
  Stored<AuthorityRows> authorities() const;  // oldest first
  // Runs `change` on all of them while no other server or command can change them, and writes
  // what it leaves: rows added, states and keys changed. When it fails nothing is changed. May run
  // it more than once. What is in force afterwards.
  using AuthorityChange = std::function<Stored<void>(AuthorityRows &)>;
  Stored<AuthorityRows> change_authorities(const AuthorityChange &change);

  // -- tokens
  Stored<void> add_token(const Token &token);  // forgets those that ended a day before, too
  // Spends the token and enrols its node with that key, or neither. Of many at once with different
  // keys one succeeds. A node that was there, revoked or not, gets the new key; what was issued
  // to it before is revoked then.
  Stored<tl::expected<Enrolled, TokenRefusal>> enroll(const TokenUse &use);

  // -- nodes
  Stored<std::vector<Node>> nodes() const;  // by name
  Stored<Node> node(std::string_view name) const;
  // Whoever shows the SVID of this serial number as that of `node`: enrolled, and the SVID was
  // issued to it, and neither it nor the root it rests on is revoked; else `refused`, with the
  // reason.
  Stored<Node> check_node(std::string_view node, std::string_view serial, std::time_t now) const;
  // For a node whose SVID has ended, when it comes with the key it had. True: it was approved and
  // is enrolled again. False: it waits now for an administrator. Another key, a revoked or an
  // unknown node: `refused`.
  Stored<bool> rejoin(std::string_view node, std::string_view key_digest, std::time_t now);
  Stored<void> approve(std::string_view node);
  // The node and all its SVIDs and unused tokens. How many SVIDs.
  Stored<std::size_t> revoke_node(std::string_view node, std::string_view reason, std::time_t now);

  // -- entries
  Stored<Entry> add_entry(Entry entry);  // with its id; `exists` for one that differs in that only
  Stored<std::vector<Entry>> entries() const;                          // oldest first
  Stored<std::vector<Entry>> entries_of(std::string_view node) const;  // those that it has
  Stored<Entry> remove_entry(std::string_view id);

  // -- SVIDs issued
  // Before an SVID is handed out. `by`: serial number of the SVID with which the node asked for it;
  // "" where that was a token or an approval. `refused` when the node, or that SVID, has been
  // revoked: nothing must be handed out then. `for_node`: it is the node's own SVID.
  Stored<void> record(const Issuance &issuance, std::string_view by, bool for_node = false);
  Stored<Issuance> revoke_svid(std::string_view serial, std::string_view reason, std::time_t now);
  Stored<Issuance> issuance(std::string_view serial) const;
  Stored<std::vector<Issuance>> revoked(std::time_t now) const;  // and not ended; for the CRLs
  // Who would be cut off if this root were revoked now. By name.
  Stored<std::vector<Resting>> resting_on(std::string_view root, std::time_t now) const;
  // Those that ended a day or more before.
  Stored<std::size_t> forget_ended(std::time_t now);

  // -- bundles of other trust domains
  Stored<void> set_bundle(const FederatedBundle &bundle);  // no new generation when it is the same
  // The same of one that was fetched: `refused` when its sequence number is lower than that of the
  // one which is there. Somebody plays back an old one, or its author has lost count.
  Stored<void> advance_bundle(const FederatedBundle &bundle);
  Stored<std::vector<FederatedBundle>> bundles() const;
  Stored<void> remove_bundle(std::string_view trust_domain);

 private:
  explicit Store(DatabasePtr database) : database_(std::move(database)) {}
  DatabasePtr database_;
};

}  // namespace inlay::identity::ca
