// Base64 as strictly as RFC 4648 allows: no white space, no other characters, canonical ends.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace inlay::identity {

// RFC 4648 §4, with padding: x5c of a JWK (RFC 7517 §4.7). Empty text is refused.
std::optional<std::vector<unsigned char>> from_base64(std::string_view text);

// RFC 4648 §5, without padding: JWS and the numbers of a JWK (RFC 7515 §2). Bits that no byte
// takes up must be zero: else one token would have several spellings.
std::optional<std::vector<unsigned char>> from_base64url(std::string_view text);

std::string to_base64(std::span<const unsigned char> bytes);
std::string to_base64url(std::span<const unsigned char> bytes);

}  // namespace inlay::identity
