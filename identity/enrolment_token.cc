#include "identity/enrolment_token.h"

#include <openssl/rand.h>

#include <algorithm>

#include "identity/base64.h"
#include "identity/openssl.h"

namespace inlay::identity {
namespace {

constexpr std::string_view kPrefix = "inlay1";
constexpr std::size_t kPartLength = 43;  // of 32 bytes in base64url

bool read_part(std::string_view text, std::array<std::uint8_t, 32> &out) {
  const auto bytes = from_base64url(text);
  if (!bytes || bytes->size() != out.size()) return false;
  std::copy(bytes->begin(), bytes->end(), out.begin());
  return true;
}

}  // namespace

std::string EnrolmentToken::text() const {
  return std::string(kPrefix) + to_base64url(pin) + to_base64url(secret);
}

std::string EnrolmentToken::secret_digest() const {
  return digest_of_secret({reinterpret_cast<const char *>(secret.data()), secret.size()});
}

bool make_secret(EnrolmentToken &token) {
  return RAND_priv_bytes_ex(library_context(), token.secret.data(), token.secret.size(), 0) == 1;
}

std::string digest_of_secret(std::string_view secret) {
  std::string digest(32, '\0');
  if (secret.size() != 32 ||
      EVP_Q_digest(library_context(), "SHA256", nullptr, secret.data(), secret.size(),
                   reinterpret_cast<unsigned char *>(digest.data()), nullptr) != 1) {
    return {};
  }
  return digest;
}

tl::expected<EnrolmentToken, std::string> parse_enrolment_token(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t from = std::min(text.find_first_not_of(kSpace), text.size());
  text = text.substr(from, text.find_last_not_of(kSpace) + 1 - from);
  EnrolmentToken token;
  if (text.empty()) {
    return tl::unexpected(std::string("the token is empty: ask for one with inlay ca token"));
  }
  if (!text.starts_with(kPrefix) || text.size() != kPrefix.size() + 2 * kPartLength ||
      !read_part(text.substr(kPrefix.size(), kPartLength), token.pin) ||
      !read_part(text.substr(kPrefix.size() + kPartLength), token.secret)) {
    return tl::unexpected(
        std::string("this is no token, or not all of one: it is a line of 92 characters that "
                    "begins with inlay1, as inlay ca token prints it"));
  }
  return token;
}

}  // namespace inlay::identity
