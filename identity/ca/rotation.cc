#include "identity/ca/rotation.h"

#include <fmt/format.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>

#include "identity/authority.h"
#include "identity/ca/authority_rows.h"
#include "identity/ca/store_sql.h"
#include "identity/certificate.h"
#include "identity/jwk.h"

namespace inlay::identity::ca {
namespace {

AuthorityRow *find_in(AuthorityRows &rows, AuthorityKind kind, AuthorityState state) {
  return const_cast<AuthorityRow *>(find(rows, kind, state));
}

void move(AuthorityRow &row, AuthorityState state, std::time_t now) {
  row.state = state;
  row.changed_at = now;
  if (state == AuthorityState::revoked) row.sealed_key.clear();
}

bool in_last_third(const AuthorityRow &row, std::time_t now) {
  return now >= row.not_after - (row.not_after - row.created_at) / 3;
}

// A row with a new ID, which the key is sealed with.
Stored<AuthorityRow> new_row(const Seal &seal, AuthorityKind kind, AuthorityState state,
                             const EVP_PKEY *key, std::string certificate, std::time_t now,
                             std::time_t not_after) {
  std::array<unsigned char, 8> random{};
  if (RAND_bytes_ex(library_context(), random.data(), random.size(), 0) != 1) {
    return store_failure(StoreProblem::internal, "OpenSSL has no random bytes");
  }
  AuthorityRow row{.id = fmt::format("{:02x}", fmt::join(random, "")),
                   .kind = kind,
                   .state = state,
                   .issuer = "",
                   .certificate = std::move(certificate),
                   .sealed_key = "",
                   .created_at = now,
                   .changed_at = now,
                   .not_after = not_after};
  auto sealed = seal.close(key, sealed_as(row));
  if (!sealed) return store_failure(StoreProblem::internal, sealed.error());
  row.sealed_key = std::move(*sealed);
  return row;
}

// Names that differ, of two made in one second, too: a CRL is matched by its issuer's name, and
// people read them.
std::string new_name(std::string_view kind, std::time_t now) {
  std::array<unsigned char, 4> random{};
  RAND_bytes_ex(library_context(), random.data(), random.size(), 0);
  return fmt::format("inlay {} {} {:02x}", kind, time_text(now), fmt::join(random, ""));
}

Stored<void> add_root(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                      AuthorityState state, std::time_t now) {
  auto root = Authority::create(settings.trust_domain, now,
                                {settings.root_lifetime, 1, new_name("root", now)});
  if (!root) return store_failure(StoreProblem::internal, root.error().message);
  auto row = new_row(seal, AuthorityKind::root, state, root->key(),
                     certificate_der(root->certificate()), now, root->not_after());
  if (!row) return tl::unexpected(std::move(row.error()));
  rows.push_back(std::move(*row));
  return {};
}

Stored<void> add_intermediate(AuthorityRows &rows, const Seal &seal,
                              const RotationSettings &settings, std::time_t now) {
  const AuthorityRow *const root = find(rows, AuthorityKind::root, AuthorityState::active);
  if (root == nullptr) return {};
  auto authority = unsealed_root(*root, seal, settings.trust_domain);
  if (!authority) return store_failure(StoreProblem::internal, authority.error());
  const std::time_t lifetime = std::min(settings.intermediate_lifetime, root->not_after - now);
  auto made = authority->create_intermediate(now, lifetime, new_name("intermediate", now));
  if (!made) return store_failure(StoreProblem::internal, made.error().message);
  auto row = new_row(seal, AuthorityKind::intermediate, AuthorityState::active, made->key(),
                     certificate_der(made->certificate()), now, made->not_after());
  if (!row) return tl::unexpected(std::move(row.error()));
  row->issuer = root->id;
  if (auto *old = find_in(rows, AuthorityKind::intermediate, AuthorityState::active)) {
    move(*old, AuthorityState::retired, now);
  }
  rows.push_back(std::move(*row));
  return {};
}

Stored<void> add_jwt_key(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                         AuthorityState state, std::time_t now) {
  const PkeyPtr key = make_authority_key();
  if (!key) return store_failure(StoreProblem::internal, "OpenSSL could not make a key");
  auto row = new_row(seal, AuthorityKind::jwt, state, key.get(), public_key_der(key.get()), now,
                     now + settings.jwt_lifetime);
  if (!row) return tl::unexpected(std::move(row.error()));
  rows.push_back(std::move(*row));
  return {};
}

bool ended(const AuthorityRow &row, std::time_t now) {
  // The active root stays, for the message about it.
  const bool kept = row.kind == AuthorityKind::root && row.state == AuthorityState::active;
  return row.not_after < now && row.state != AuthorityState::revoked && !kept;
}

bool intermediate_due(const AuthorityRows &rows, std::time_t now) {
  const AuthorityRow *const root = find(rows, AuthorityKind::root, AuthorityState::active);
  if (root == nullptr || root->not_after <= now) return false;
  const AuthorityRow *const current =
      find(rows, AuthorityKind::intermediate, AuthorityState::active);
  if (current == nullptr || current->issuer != root->id || current->not_after < now) return true;
  // One that ends with its root cannot be replaced by a longer one.
  return in_last_third(*current, now) && current->not_after < root->not_after;
}

enum class JwtStep : std::uint8_t { none, make, prepare, activate };

JwtStep jwt_step(const AuthorityRows &rows, const RotationSettings &settings, std::time_t now) {
  const AuthorityRow *const current = find(rows, AuthorityKind::jwt, AuthorityState::active);
  const AuthorityRow *const next = find(rows, AuthorityKind::jwt, AuthorityState::prepared);
  const bool usable = current != nullptr && current->not_after >= now;
  if (next != nullptr && (!usable || now >= next->created_at + settings.overlap)) {
    return JwtStep::activate;
  }
  if (!usable) return JwtStep::make;
  return next == nullptr && in_last_third(*current, now) ? JwtStep::prepare : JwtStep::none;
}

Stored<void> step_jwt(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                      std::time_t now) {
  const JwtStep step = jwt_step(rows, settings, now);
  if (step == JwtStep::prepare) {
    return add_jwt_key(rows, seal, settings, AuthorityState::prepared, now);
  }
  if (step == JwtStep::none) return {};
  if (auto *old = find_in(rows, AuthorityKind::jwt, AuthorityState::active)) {
    move(*old, AuthorityState::retired, now);
  }
  if (step == JwtStep::make) return add_jwt_key(rows, seal, settings, AuthorityState::active, now);
  move(*find_in(rows, AuthorityKind::jwt, AuthorityState::prepared), AuthorityState::active, now);
  return {};
}

void move_with_intermediates(AuthorityRows &rows, AuthorityRow &root, AuthorityState state,
                             std::time_t now) {
  move(root, state, now);
  for (AuthorityRow &row : rows) {
    if (row.issuer == root.id && row.state != AuthorityState::revoked) move(row, state, now);
  }
}

}  // namespace

const AuthorityRow *find(const AuthorityRows &rows, AuthorityKind kind, AuthorityState state) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const AuthorityRow &row) {
    return row.kind == kind && row.state == state;
  });
  return found == rows.end() ? nullptr : &*found;
}

Ending ending(std::string_view what, std::string_view to_do, std::time_t not_after,
              std::time_t now) {
  constexpr std::time_t kDays[] = {60, 30, 7, 1};
  Ending out;
  for (const std::time_t days : kDays) out.step += not_after - now <= days * 86400 ? 1 : 0;
  if (out.near()) {
    out.text = fmt::format("{} ends at {}, in {} days: {}", what, time_text(not_after),
                           std::max<std::time_t>(not_after - now, 0) / 86400, to_do);
  }
  return out;
}

Ending ending_root(const AuthorityRows &rows, std::time_t now) {
  const AuthorityRow *const root = find(rows, AuthorityKind::root, AuthorityState::active);
  if (root == nullptr || find(rows, AuthorityKind::root, AuthorityState::prepared) != nullptr) {
    return {};
  }
  return ending("the root", "inlay ca rotate prepare begins its replacement", root->not_after, now);
}

bool due(const AuthorityRows &rows, const RotationSettings &settings, std::time_t now) {
  const bool any_ended = std::any_of(rows.begin(), rows.end(),
                                     [&](const AuthorityRow &row) { return ended(row, now); });
  const bool x509 =
      !settings.upstream && (find(rows, AuthorityKind::root, AuthorityState::active) == nullptr ||
                             intermediate_due(rows, now));
  return any_ended || x509 || jwt_step(rows, settings, now) != JwtStep::none;
}

Stored<void> maintain(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                      std::time_t now) {
  if (!settings.upstream) {
    if (find(rows, AuthorityKind::root, AuthorityState::active) == nullptr) {
      if (auto made = add_root(rows, seal, settings, AuthorityState::active, now); !made) {
        return made;
      }
    }
    if (intermediate_due(rows, now)) {
      if (auto made = add_intermediate(rows, seal, settings, now); !made) return made;
    }
  }
  if (auto made = step_jwt(rows, seal, settings, now); !made) return made;
  for (AuthorityRow &row : rows) {
    if (ended(row, now)) move(row, AuthorityState::revoked, now);
  }
  return {};
}

Stored<void> prepare_root(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                          std::time_t now) {
  if (const auto *next = find(rows, AuthorityKind::root, AuthorityState::prepared)) {
    return store_failure(StoreProblem::refused,
                         fmt::format("a root is prepared since {}: activate it (inlay ca rotate "
                                     "activate) or take it back (inlay ca rotate revoke)",
                                     time_text(next->created_at)));
  }
  return add_root(rows, seal, settings, AuthorityState::prepared, now);
}

Stored<void> activate_root(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                           std::time_t now, bool at_once) {
  AuthorityRow *const next = find_in(rows, AuthorityKind::root, AuthorityState::prepared);
  if (next == nullptr) {
    return store_failure(StoreProblem::refused,
                         "no root is prepared: make one first with inlay ca rotate prepare");
  }
  if (const std::time_t from = next->created_at + settings.overlap; now < from && !at_once) {
    return store_failure(
        StoreProblem::refused,
        fmt::format("the new root is in the bundle since {}, and may sign from {} on, when every "
                    "machine has it; --now does it at once, and machines that are off now will "
                    "refuse others until they are back",
                    time_text(next->created_at), time_text(from)));
  }
  for (AuthorityRow &row : rows) {
    if (row.kind == AuthorityKind::root && row.state == AuthorityState::active) {
      move(row, AuthorityState::retired, now);
    }
  }
  move(*next, AuthorityState::active, now);
  return add_intermediate(rows, seal, settings, now);
}

Stored<void> taint_root(AuthorityRows &rows, std::time_t now) {
  bool any = false;
  for (AuthorityRow &row : rows) {
    if (row.kind != AuthorityKind::root || row.state != AuthorityState::retired) continue;
    move_with_intermediates(rows, row, AuthorityState::tainted, now);
    any = true;
  }
  if (any) return {};
  return store_failure(
      StoreProblem::refused,
      "no root is retired: the one in use is tainted after another was prepared and activated");
}

Stored<void> revoke_root(AuthorityRows &rows, std::time_t now) {
  AuthorityState from = AuthorityState::tainted;
  if (find(rows, AuthorityKind::root, from) == nullptr) from = AuthorityState::prepared;
  bool any = false;
  for (AuthorityRow &row : rows) {
    if (row.kind != AuthorityKind::root || row.state != from) continue;
    move_with_intermediates(rows, row, AuthorityState::revoked, now);
    any = true;
  }
  if (any) return {};
  return store_failure(StoreProblem::refused,
                       "no root is tainted or prepared: taint the retired one first, so that "
                       "everything under it is replaced (inlay ca rotate taint)");
}

}  // namespace inlay::identity::ca
