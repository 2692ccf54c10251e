#include "identity/bundle.h"

#include <fmt/format.h>

#include <new>

#include "identity/base64.h"
#include "identity/certificate.h"
#include "identity/strict_json.h"

namespace inlay::identity {
namespace {

using Json = nlohmann::json;

tl::unexpected<BundleError> error(std::string message) {
  return tl::unexpected(BundleError{std::move(message)});
}

// X509-SVID §6.1 and Trust Domain and Bundle §4.2. Null for an element to be ignored.
tl::expected<X509Ptr, BundleError> parse_key(const Json &key, std::size_t index) {
  if (!key.is_object()) return error(fmt::format("keys[{}] is not an object", index));
  const std::string_view type = json_text(key, "kty");
  if (type != "EC" && type != "RSA") return X509Ptr();
  // jwt-svid authorities sign tokens, not certificates.
  if (json_text(key, "use") != "x509-svid") return X509Ptr();

  const Json *const chain = json_member(key, "x5c");
  if (chain == nullptr || !chain->is_array() || chain->size() != 1) {
    return error(fmt::format("keys[{}] is an x509-svid key without exactly one x5c value", index));
  }
  const auto *const text = chain->front().get_ptr<const std::string *>();
  const auto der = text != nullptr ? from_base64(*text) : std::nullopt;
  X509Ptr certificate = der ? certificate_from_der(*der) : nullptr;
  if (!certificate) {
    return error(fmt::format("keys[{}] has an x5c value that is no base64 DER certificate", index));
  }
  return certificate;
}

tl::expected<Bundle, BundleError> parse_json(std::string_view text) {
  const auto parsed = parse_strict_json(text);
  if (!parsed) return error(parsed.error());
  const Json &document = *parsed;
  if (!document.is_object()) return error("its JSON is not an object");

  const Json *const keys = json_member(document, "keys");
  if (keys == nullptr && json_member(document, "trust_domains") != nullptr) {
    return error("it is a map of bundles (\"trust_domains\"); give each bundle its own file");
  }
  if (keys == nullptr) return error("\"keys\" is missing");
  if (!keys->is_array()) return error("\"keys\" is not an array");

  Bundle bundle;
  if (const Json *const sequence = json_member(document, "spiffe_sequence"); sequence != nullptr) {
    // A double would round above 2^53; the parser makes one of any integer beyond 64 bits.
    const auto *const number = sequence->get_ptr<const Json::number_unsigned_t *>();
    if (number == nullptr) {
      return error("\"spiffe_sequence\" is not an integer from 0 to 18446744073709551615");
    }
    bundle.sequence = *number;
  }
  for (std::size_t index = 0; index < keys->size(); ++index) {
    auto authority = parse_key((*keys)[index], index);
    if (!authority) return tl::unexpected(authority.error());
    if (*authority) bundle.authorities.push_back(std::move(*authority));
  }
  return bundle;
}

tl::expected<Bundle, BundleError> parse_pem(std::string_view text) {
  auto certificates = certificates_from_pem(text);
  if (!certificates) return error(certificates.error());
  if (certificates->empty()) return error("it holds no certificate, neither PEM nor SPIFFE JSON");
  return Bundle{.authorities = std::move(*certificates),
                .sequence = 0,
                .crls = {},
                .crls_of_intermediates = {}};
}

}  // namespace

bool looks_like_json(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return first != text.npos && (text[first] == '{' || text[first] == '[');
}

tl::expected<Bundle, BundleError> parse_bundle(std::string_view text) {
  const ErrorMark mark;
  try {
    return looks_like_json(text) ? parse_json(text) : parse_pem(text);
  } catch (const std::bad_alloc &) {
    return tl::unexpected(BundleError{"out of memory"});
  }
}

}  // namespace inlay::identity
