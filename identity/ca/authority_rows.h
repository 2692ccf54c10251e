// From a row of the store to what it stands for.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "identity/authority.h"
#include "identity/ca/seal.h"
#include "identity/ca/store.h"

namespace inlay::identity::ca {

// What a row's key is sealed as: its ID and kind.
std::string sealed_as(const AuthorityRow &row);
// Null when it is none.
X509Ptr certificate_of(const AuthorityRow &row);
tl::expected<Authority, std::string> unsealed_root(const AuthorityRow &row, const Seal &seal,
                                                   std::string_view trust_domain);
tl::expected<Authority, std::string> unsealed_intermediate(const AuthorityRow &row,
                                                           const AuthorityRow &root,
                                                           const Seal &seal,
                                                           std::string_view trust_domain);

}  // namespace inlay::identity::ca
