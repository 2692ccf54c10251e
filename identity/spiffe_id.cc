#include "identity/spiffe_id.h"

namespace inlay::identity {
namespace {

constexpr std::string_view kScheme = "spiffe://";
constexpr std::size_t kMaxLength = 2048;            // SPIFFE-ID §2.3
constexpr std::size_t kMaxTrustDomainLength = 255;  // SPIFFE-ID §2.1 by way of RFC 3986 §3.2.2

// Written out rather than <cctype>: the host process may have set any locale.
constexpr bool lower_case_or_digit(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
constexpr bool mark(char c) noexcept { return c == '.' || c == '-' || c == '_'; }

// SPIFFE-ID §2.1. Upper case is refused although URIs compare hosts without case: two spellings of
// one identity would be two identities to whoever compares text.
constexpr bool trust_domain_character(char c) noexcept { return lower_case_or_digit(c) || mark(c); }

// SPIFFE-ID §2.2.
constexpr bool path_character(char c) noexcept {
  return lower_case_or_digit(c) || (c >= 'A' && c <= 'Z') || mark(c);
}

tl::expected<void, SpiffeIdError> check_trust_domain(std::string_view name) noexcept {
  if (name.empty()) return tl::unexpected(SpiffeIdError::trust_domain_empty);
  for (const char c : name) {
    if (!trust_domain_character(c)) return tl::unexpected(SpiffeIdError::trust_domain_character);
  }
  if (name.size() > kMaxTrustDomainLength) {
    return tl::unexpected(SpiffeIdError::trust_domain_too_long);
  }
  return {};
}

tl::expected<void, SpiffeIdError> check_segment(std::string_view segment) noexcept {
  if (segment.empty()) return tl::unexpected(SpiffeIdError::path_empty_segment);
  for (const char c : segment) {
    if (!path_character(c)) return tl::unexpected(SpiffeIdError::path_character);
  }
  if (segment == "." || segment == "..") return tl::unexpected(SpiffeIdError::path_dot_segment);
  return {};
}

// `path` is empty or starts with "/".
tl::expected<void, SpiffeIdError> check_path(std::string_view path) noexcept {
  while (!path.empty()) {
    path.remove_prefix(1);
    if (path.empty()) return tl::unexpected(SpiffeIdError::path_trailing_slash);
    const std::string_view segment = path.substr(0, path.find('/'));
    if (auto good = check_segment(segment); !good) return good;
    path.remove_prefix(segment.size());
  }
  return {};
}

}  // namespace

std::string_view sentence(SpiffeIdError error) noexcept {
  switch (error) {
    case SpiffeIdError::empty:
      return "the SPIFFE ID is empty";
    case SpiffeIdError::too_long:
      return "the SPIFFE ID is longer than 2048 bytes";
    case SpiffeIdError::wrong_scheme:
      return "a SPIFFE ID starts with spiffe:// in lower case";
    case SpiffeIdError::trust_domain_empty:
      return "the trust domain is empty";
    case SpiffeIdError::trust_domain_too_long:
      return "the trust domain is longer than 255 bytes";
    case SpiffeIdError::trust_domain_character:
      return "a trust domain has only the characters a-z, 0-9, '.', '-' and '_', no port and no "
             "user";
    case SpiffeIdError::path_character:
      return "a SPIFFE ID's path has only letters, digits, '.', '-', '_' and '/', no query, no "
             "fragment and no percent-encoding";
    case SpiffeIdError::path_empty_segment:
      return "a SPIFFE ID's path has no empty segment (\"//\")";
    case SpiffeIdError::path_dot_segment:
      return "a SPIFFE ID's path has no \".\" or \"..\" segment";
    case SpiffeIdError::path_trailing_slash:
      return "a SPIFFE ID does not end with \"/\"";
  }
  return "the SPIFFE ID is not valid";
}

tl::expected<SpiffeId, SpiffeIdError> SpiffeId::parse(std::string_view uri) {
  if (uri.empty()) return tl::unexpected(SpiffeIdError::empty);
  if (uri.size() > kMaxLength) return tl::unexpected(SpiffeIdError::too_long);
  if (!uri.starts_with(kScheme)) return tl::unexpected(SpiffeIdError::wrong_scheme);
  static_assert(kScheme.size() == kSchemeLength);

  const std::string_view rest = uri.substr(kSchemeLength);
  const std::string_view trust_domain = rest.substr(0, rest.find('/'));
  if (auto good = check_trust_domain(trust_domain); !good) return tl::unexpected(good.error());
  if (auto good = check_path(rest.substr(trust_domain.size())); !good) {
    return tl::unexpected(good.error());
  }
  return SpiffeId(uri, trust_domain.size());
}

bool valid_trust_domain(std::string_view name) noexcept {
  return check_trust_domain(name).has_value();
}

}  // namespace inlay::identity
