#include "identity/trust_domain_bundle.h"

#include <fmt/format.h>

#include <new>
#include <span>

#include "identity/base64.h"
#include "identity/certificate.h"
#include "identity/jwk.h"
#include "identity/strict_json.h"

namespace inlay::identity {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxKeyIdBytes = 256;

tl::unexpected<BundleError> error(std::string message) {
  return tl::unexpected(BundleError{std::move(message)});
}

std::string der_of(const X509 *certificate) {
  unsigned char *der = nullptr;
  const int length = i2d_X509(certificate, &der);
  if (length <= 0) return {};
  std::string bytes(reinterpret_cast<const char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return bytes;
}

// `use` is what a key of no "use" is taken for.
tl::expected<JwtAuthorities, BundleError> read_authorities(const Json &document,
                                                           std::string_view use) {
  JwtAuthorities authorities;
  const Json *const keys = json_member(document, "keys");
  if (keys == nullptr || !keys->is_array()) return error("\"keys\" is missing or not an array");
  for (std::size_t index = 0; index < keys->size(); ++index) {
    const Json &key = (*keys)[index];
    if (!key.is_object()) return error(fmt::format("keys[{}] is not an object", index));
    const std::string_view written = json_text(key, "use");
    if ((json_member(key, "use") != nullptr ? written : use) != "jwt-svid") continue;
    auto parsed = public_key_from_jwk(key);
    if (!parsed) return error(fmt::format("keys[{}] {}", index, parsed.error()));
    if (!*parsed) continue;
    const std::string_view id = json_text(key, "kid");
    if (id.empty() || id.size() > kMaxKeyIdBytes) {
      return error(fmt::format("keys[{}] is a jwt-svid key without a kid", index));
    }
    std::string der = public_key_der(parsed->get());
    if (der.empty()) return error("out of memory");
    if (!authorities.try_emplace(std::string(id), std::move(der)).second) {
      return error(fmt::format("keys[{}] has the kid \"{}\" of another key", index, printable(id)));
    }
  }
  return authorities;
}

tl::expected<TrustDomainBundle, BundleError> parse(std::string_view text) {
  const auto certificates = parse_bundle(text);
  if (!certificates) return tl::unexpected(certificates.error());
  TrustDomainBundle bundle;
  bundle.sequence = certificates->sequence;
  for (const X509Ptr &authority : certificates->authorities) {
    bundle.x509_authorities.push_back(der_of(authority.get()));
    if (bundle.x509_authorities.back().empty()) return error("out of memory");
  }
  if (!looks_like_json(text)) return bundle;

  const auto document = parse_strict_json(text);
  if (!document) return error(document.error());
  auto authorities = read_authorities(*document, "");
  if (!authorities) return tl::unexpected(authorities.error());
  bundle.jwt_authorities = std::move(*authorities);
  if (const Json *const hint = json_member(*document, "spiffe_refresh_hint"); hint != nullptr) {
    const auto *const seconds = hint->get_ptr<const Json::number_unsigned_t *>();
    if (seconds == nullptr || *seconds > UINT32_MAX) {
      return error("\"spiffe_refresh_hint\" is not a number of seconds");
    }
    // 0 would mean without a pause.
    if (*seconds != 0) bundle.refresh_hint = static_cast<std::uint32_t>(*seconds);
  }
  return bundle;
}

Json jwt_keys(const JwtAuthorities &authorities) {
  Json keys = Json::array();
  for (const auto &[id, der] : authorities) {
    const PkeyPtr key = public_key_from_der(der);
    Json jwk = key ? jwk_of(key.get()) : Json::object();
    if (jwk.empty()) continue;
    jwk["kid"] = id;
    keys.push_back(std::move(jwk));
  }
  return keys;
}

// What is not UTF-8, a kid perhaps, does not throw.
std::string text_of(const Json &document) {
  return document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

tl::expected<TrustDomainBundle, BundleError> parse_trust_domain_bundle(std::string_view text) {
  const ErrorMark mark;
  try {
    return parse(text);
  } catch (const std::bad_alloc &) {
    return tl::unexpected(BundleError{"out of memory"});
  }
}

tl::expected<JwtAuthorities, BundleError> parse_jwt_authorities(std::string_view text) {
  const ErrorMark mark;
  try {
    const auto document = parse_strict_json(text);
    if (!document) return error(document.error());
    if (!document->is_object()) return error("its JSON is not an object");
    return read_authorities(*document, "jwt-svid");
  } catch (const std::bad_alloc &) {
    return tl::unexpected(BundleError{"out of memory"});
  }
}

std::string bundle_document(const TrustDomainBundle &bundle) {
  const ErrorMark mark;
  Json keys = Json::array();
  for (const std::string &der : bundle.x509_authorities) {
    const std::span bytes(reinterpret_cast<const unsigned char *>(der.data()), der.size());
    const X509Ptr certificate = certificate_from_der(bytes);
    Json jwk = certificate ? jwk_of(X509_get0_pubkey(certificate.get())) : Json::object();
    if (jwk.empty()) continue;
    jwk["use"] = "x509-svid";
    jwk["x5c"] = {to_base64(bytes)};
    keys.push_back(std::move(jwk));
  }
  for (Json &jwk : jwt_keys(bundle.jwt_authorities)) {
    jwk["use"] = "jwt-svid";
    keys.push_back(std::move(jwk));
  }
  return text_of({{"keys", std::move(keys)},
                  {"spiffe_sequence", bundle.sequence},
                  {"spiffe_refresh_hint", bundle.refresh_hint}});
}

std::string jwk_set(const JwtAuthorities &authorities) {
  const ErrorMark mark;
  return text_of({{"keys", jwt_keys(authorities)}});
}

}  // namespace inlay::identity
