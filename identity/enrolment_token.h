// What a new machine is given to enrol with: "inlay1", the pin of the authority's root and a
// secret.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity {

struct EnrolmentToken {
  std::array<std::uint8_t, 32> pin{};     // public_key_digest() of the root
  std::array<std::uint8_t, 32> secret{};  // random; good once
  bool operator==(const EnrolmentToken &) const = default;

  // "inlay1" and both in base64url, 43 characters each.
  std::string text() const;
  // SHA-256 of the secret: what the authority keeps. 32 bytes.
  std::string secret_digest() const;
};

// With a new secret. False when OpenSSL has no random bytes.
bool make_secret(EnrolmentToken &token);

// White space around it does not matter. The error is one line that quotes nothing of it.
tl::expected<EnrolmentToken, std::string> parse_enrolment_token(std::string_view text);

// The same of what a node sends as its secret: 32 bytes. "" when it cannot be one.
std::string digest_of_secret(std::string_view secret);

}  // namespace inlay::identity
