// A SPIFFE ID (SPIFFE-ID §2). Always valid: the only way to one is parse().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::identity {

enum class SpiffeIdError : std::uint8_t {
  empty,
  too_long,      // more than 2048 bytes (§2.3)
  wrong_scheme,  // not lower-case "spiffe://"
  trust_domain_empty,
  trust_domain_too_long,   // more than 255 bytes
  trust_domain_character,  // outside [a-z0-9.-_]; port, userinfo, percent-encoding end here too
  path_character,      // outside [A-Za-z0-9.-_/]; query, fragment, percent-encoding end here too
  path_empty_segment,  // "//"
  path_dot_segment,    // "." or ".."
  path_trailing_slash,
};

// One sentence for a person, without a final dot.
std::string_view sentence(SpiffeIdError error) noexcept;

class SpiffeId {
 public:
  static tl::expected<SpiffeId, SpiffeIdError> parse(std::string_view uri);
  // Copied, never moved from, which would leave an invalid ID behind; and without memory, since
  // tl::expected ends the process where a copy throws.
  SpiffeId(const SpiffeId &) noexcept = default;
  SpiffeId &operator=(const SpiffeId &) noexcept = default;

  std::string_view trust_domain() const noexcept {
    return std::string_view(*uri_).substr(kSchemeLength, trust_domain_length_);
  }
  // "" for a trust domain's own ID, else starts with "/".
  std::string_view path() const noexcept {
    return std::string_view(*uri_).substr(kSchemeLength + trust_domain_length_);
  }
  const std::string &uri() const noexcept { return *uri_; }
  bool operator==(const SpiffeId &other) const noexcept { return *uri_ == *other.uri_; }

 private:
  static constexpr std::size_t kSchemeLength = 9;  // "spiffe://"
  SpiffeId(std::string_view uri, std::size_t trust_domain_length)
      : uri_(std::make_shared<const std::string>(uri)), trust_domain_length_(trust_domain_length) {}
  std::shared_ptr<const std::string> uri_;
  std::size_t trust_domain_length_;
};

// True for a valid trust domain name alone ("example.org").
bool valid_trust_domain(std::string_view name) noexcept;

}  // namespace inlay::identity
