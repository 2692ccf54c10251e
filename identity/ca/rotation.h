// The life of the authority's keys and certificates. Pure: what to do with the rows that the store
// keeps; run it in Store::change_authorities().
//
//   root          prepared -> active -> retired -> tainted -> revoked     by an administrator
//   intermediate  active -> retired (-> tainted -> revoked, with its root)      by itself
//   JWT key       prepared -> active -> retired -> revoked                      by itself
//
// All but what is revoked is in the bundle (intermediates come with each SVID instead). What is
// past its end is revoked; the key of what is revoked is forgotten.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/seal.h"
#include "identity/ca/store.h"

namespace inlay::identity::ca {

struct RotationSettings {
  std::string trust_domain;
  std::time_t root_lifetime = 365 * 86400;         // seconds, as all of these
  std::time_t intermediate_lifetime = 90 * 86400;  // replaced after two thirds of it
  std::time_t jwt_lifetime = 90 * 86400;           // likewise
  // How long a root or JWT key is in the bundle before it signs: until everybody has it.
  std::time_t overlap = 86400;
  bool upstream = false;  // the X.509 half is another authority's (upstream.h): JWT keys only
};

// Makes what there must be and is not: everything at the first start; later renews intermediates
// and JWT keys and revokes what has ended. Every server does it now and then, and every command
// that needs a key.
Stored<void> maintain(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                      std::time_t now);
// Whether that would change something.
bool due(const AuthorityRows &rows, const RotationSettings &settings, std::time_t now);

// A new root, in the bundle from now on. One at a time.
Stored<void> prepare_root(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                          std::time_t now);
// It signs from now on, by a new intermediate. Refused before `overlap` has passed unless
// `at_once`: agents that do not have it yet would refuse what it signs.
Stored<void> activate_root(AuthorityRows &rows, const Seal &seal, const RotationSettings &settings,
                           std::time_t now, bool at_once);
// Everything under the retired root is to be replaced at once.
Stored<void> taint_root(AuthorityRows &rows, std::time_t now);
// The tainted root leaves the bundle; a prepared one, too, when there is none tainted.
Stored<void> revoke_root(AuthorityRows &rows, std::time_t now);

// What an administrator must replace before it ends, named 60, 30, 7 and 1 days before.
struct Ending {
  int step = 0;      // raised by each of those; 0: there is time
  std::string text;  // one line; "" at step 0
  bool near() const noexcept { return step > 0; }
};
Ending ending(std::string_view what, std::string_view to_do, std::time_t not_after,
              std::time_t now);
// Of the root that signs, while no other is prepared. One that ends all the same is followed by one
// that no machine knows.
Ending ending_root(const AuthorityRows &rows, std::time_t now);

// Null when there is none.
const AuthorityRow *find(const AuthorityRows &rows, AuthorityKind kind, AuthorityState state);

}  // namespace inlay::identity::ca
