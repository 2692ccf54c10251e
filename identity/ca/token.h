// Enrolment tokens: "inlay1", the pin of the authority's root, and a secret; 92 characters that any
// shell and URL leave as they are (base64url, RFC 4648 §5).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace inlay::identity::ca {

struct NewToken {
  std::string text;           // for whoever enrols; it is kept nowhere. Cleanse it
  std::string secret_digest;  // for the store
};
// Empty when there is no randomness to be had. `pin`: Signer::pin().
NewToken make_token(const std::array<std::uint8_t, 32> &pin);

// SHA-256 of a token's secret as an agent sends it (EnrollRequest): 32 bytes.
std::string secret_digest(std::string_view secret);

}  // namespace inlay::identity::ca
