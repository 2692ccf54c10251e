#include "identity/jwt_svid.h"

#include <fmt/format.h>
#include <openssl/ecdsa.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <new>

#include "identity/base64.h"
#include "identity/certificate.h"
#include "identity/jwk.h"
#include "identity/strict_json.h"

namespace inlay::identity {
namespace {

using Json = nlohmann::json;
using DigestContextPtr = std::unique_ptr<EVP_MD_CTX, OpensslDelete<EVP_MD_CTX_free>>;
using EcdsaSignaturePtr = std::unique_ptr<ECDSA_SIG, OpensslDelete<ECDSA_SIG_free>>;
using NumberPtr = std::unique_ptr<BIGNUM, OpensslDelete<BN_free>>;
using Bytes = std::vector<unsigned char>;

enum class Family : std::uint8_t { ecdsa, pkcs1, pss };

// RFC 7518 §3.1; JWT-SVID §2.1 leaves these nine.
struct Algorithm {
  std::string_view name;
  Family family;
  const char *digest;
  std::string_view curve;  // of ecdsa: the one it is for
  std::size_t half;        // of ecdsa: bytes of r and of s
};

constexpr std::array<Algorithm, 9> kAlgorithms{{
    {"ES256", Family::ecdsa, "SHA256", "P-256", 32},
    {"ES384", Family::ecdsa, "SHA384", "P-384", 48},
    {"ES512", Family::ecdsa, "SHA512", "P-521", 66},
    {"RS256", Family::pkcs1, "SHA256", "", 0},
    {"RS384", Family::pkcs1, "SHA384", "", 0},
    {"RS512", Family::pkcs1, "SHA512", "", 0},
    {"PS256", Family::pss, "SHA256", "", 0},
    {"PS384", Family::pss, "SHA384", "", 0},
    {"PS512", Family::pss, "SHA512", "", 0},
}};

// 31 December 9999, the last date there is a text for.
constexpr std::time_t kLastTime = 253402300799;

tl::unexpected<JwtFailure> failure(JwtError error, std::string detail = {}) {
  return tl::unexpected(JwtFailure{error, std::move(detail)});
}

struct Token {
  const Algorithm *algorithm = nullptr;
  std::string key_id;
  JwtClaims claims;
  std::optional<std::time_t> not_before;
  std::string_view signed_part;
  Bytes signature;
};

tl::expected<Json, JwtFailure> read_part(std::string_view part, const char *what,
                                         std::string *text = nullptr) {
  const auto bytes = from_base64url(part);
  if (!bytes || bytes->empty()) {
    return failure(JwtError::malformed, fmt::format("its {} is no base64url", what));
  }
  std::string json(bytes->begin(), bytes->end());
  auto object = parse_strict_json(json);
  if (!object || !object->is_object()) {
    return failure(JwtError::malformed, fmt::format("its {} is no JSON object", what));
  }
  if (text != nullptr) *text = std::move(json);
  return std::move(*object);
}

// JWT-SVID §2.
tl::expected<void, JwtFailure> read_header(std::string_view part, Token &token) {
  const auto header = read_part(part, "header");
  if (!header) return tl::unexpected(header.error());
  const std::string_view name = json_text(*header, "alg");
  const auto algorithm = std::find_if(kAlgorithms.begin(), kAlgorithms.end(),
                                      [&](const Algorithm &it) { return it.name == name; });
  if (algorithm == kAlgorithms.end()) {
    return failure(JwtError::algorithm, fmt::format("its algorithm is \"{}\"", printable(name)));
  }
  token.algorithm = &*algorithm;
  if (const Json *const type = json_member(*header, "typ");
      type != nullptr && *type != "JWT" && *type != "JOSE") {
    return failure(JwtError::wrong_type);
  }
  if (json_member(*header, "crit") != nullptr) return failure(JwtError::critical);
  token.key_id = json_text(*header, "kid");
  return {};
}

// RFC 7519 §2, NumericDate: seconds, perhaps with a fraction. Null for anything else.
std::optional<std::time_t> numeric_date(const Json &value) {
  if (!value.is_number()) return std::nullopt;
  const double seconds = value.get<double>();
  if (!(seconds >= 0 && seconds <= static_cast<double>(kLastTime))) return std::nullopt;
  return static_cast<std::time_t>(seconds);
}

tl::expected<std::vector<std::string>, JwtFailure> read_audience(const Json &claims) {
  const Json *const audience = json_member(claims, "aud");
  if (audience == nullptr) return failure(JwtError::no_audience);
  std::vector<std::string> names;
  const auto add = [&names](const Json &name) {
    if (!name.is_string()) return false;
    names.push_back(name.get<std::string>());
    return !names.back().empty();
  };
  const bool good =
      audience->is_array() ? std::all_of(audience->begin(), audience->end(), add) : add(*audience);
  if (!good) return failure(JwtError::malformed, "its aud holds what is no name");
  if (names.empty()) return failure(JwtError::no_audience);
  return names;
}

// JWT-SVID §3.
tl::expected<void, JwtFailure> read_claims(std::string_view part, Token &token) {
  std::string text;
  const auto claims = read_part(part, "payload", &text);
  if (!claims) return tl::unexpected(claims.error());
  auto subject = SpiffeId::parse(json_text(*claims, "sub"));
  if (!subject) return failure(JwtError::no_subject, std::string(sentence(subject.error())));
  if (subject->path().empty()) return failure(JwtError::no_subject, "it names a trust domain");
  auto audience = read_audience(*claims);
  if (!audience) return tl::unexpected(audience.error());
  const Json *const expiry = json_member(*claims, "exp");
  if (expiry == nullptr) return failure(JwtError::no_expiry);
  const auto expires = numeric_date(*expiry);
  if (!expires) return failure(JwtError::malformed, "its exp is no time");
  if (const Json *const start = json_member(*claims, "nbf"); start != nullptr) {
    token.not_before = numeric_date(*start);
    if (!token.not_before) return failure(JwtError::malformed, "its nbf is no time");
  }
  token.claims = {std::move(*subject), std::move(*audience), *expires, std::move(text)};
  return {};
}

// RFC 7515 §7.1. The JSON serialisations are refused with all else that is not of this form.
tl::expected<Token, JwtFailure> read_token(std::string_view text) {
  if (text.size() > kMaxJwtBytes) {
    return failure(JwtError::malformed, fmt::format("it is longer than {} bytes", kMaxJwtBytes));
  }
  const std::size_t first = text.find('.');
  const std::size_t second = first == text.npos ? first : text.find('.', first + 1);
  if (second == text.npos) return failure(JwtError::malformed, "it is not in three parts");
  Token token{.algorithm = nullptr,
              .key_id = {},
              .claims = {*SpiffeId::parse("spiffe://none/none"), {}, 0, {}},
              .not_before = {},
              .signed_part = text.substr(0, second),
              .signature = {}};
  if (auto good = read_header(text.substr(0, first), token); !good) {
    return tl::unexpected(good.error());
  }
  if (auto good = read_claims(text.substr(first + 1, second - first - 1), token); !good) {
    return tl::unexpected(good.error());
  }
  auto signature = from_base64url(text.substr(second + 1));
  if (!signature || signature->empty()) {
    return failure(JwtError::malformed, "its signature is no base64url");
  }
  token.signature = std::move(*signature);
  return token;
}

// RFC 7518 §3.4: r and s, each in the curve's full length. OpenSSL wants them in DER.
std::optional<Bytes> der_signature(const Bytes &raw, std::size_t half) {
  if (raw.size() != 2 * half) return std::nullopt;
  const int length = static_cast<int>(half);
  NumberPtr r(BN_bin2bn(raw.data(), length, nullptr));
  NumberPtr s(BN_bin2bn(raw.data() + half, length, nullptr));
  const EcdsaSignaturePtr signature(ECDSA_SIG_new());
  if (!r || !s || !signature || ECDSA_SIG_set0(signature.get(), r.get(), s.get()) != 1) {
    return std::nullopt;
  }
  (void)r.release();
  (void)s.release();
  unsigned char *der = nullptr;
  const int size = i2d_ECDSA_SIG(signature.get(), &der);
  if (size <= 0) return std::nullopt;
  Bytes bytes(der, der + size);
  OPENSSL_free(der);
  return bytes;
}

// Whether a key is of the kind its algorithm is for: a public RSA key must not verify as if it were
// something else.
bool fits(const EVP_PKEY *key, const Algorithm &algorithm) {
  if (algorithm.family == Family::ecdsa) return jwk_curve(key) == algorithm.curve;
  const int bits = EVP_PKEY_get_bits(key);
  return EVP_PKEY_is_a(key, "RSA") == 1 && bits >= kMinRsaBits && bits <= kMaxRsaBits;
}

bool set_padding(EVP_PKEY_CTX *context, Family family) {
  if (family == Family::ecdsa) return true;
  if (family == Family::pkcs1) {
    return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1;
  }
  // RFC 7518 §3.5: the salt is as long as the digest; MGF1 with the same one is the default.
  return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) == 1 &&
         EVP_PKEY_CTX_set_rsa_pss_saltlen(context, RSA_PSS_SALTLEN_DIGEST) == 1;
}

bool signature_holds(const Token &token, EVP_PKEY *key) {
  const Algorithm &algorithm = *token.algorithm;
  if (!fits(key, algorithm)) return false;
  const auto signature = algorithm.family == Family::ecdsa
                             ? der_signature(token.signature, algorithm.half)
                             : std::optional(token.signature);
  if (!signature) return false;
  const DigestContextPtr context(EVP_MD_CTX_new());
  EVP_PKEY_CTX *of_key = nullptr;  // the context's own
  return context &&
         EVP_DigestVerifyInit_ex(context.get(), &of_key, algorithm.digest, library_context(),
                                 nullptr, key, nullptr) == 1 &&
         set_padding(of_key, algorithm.family) &&
         EVP_DigestVerify(context.get(), signature->data(), signature->size(),
                          reinterpret_cast<const unsigned char *>(token.signed_part.data()),
                          token.signed_part.size()) == 1;
}

tl::expected<JwtClaims, JwtFailure> validate(std::string_view text, std::string_view audience,
                                             const JwtAuthoritiesOf &authorities_of,
                                             std::time_t now) {
  auto token = read_token(text);
  if (!token) return tl::unexpected(token.error());
  JwtClaims &claims = token->claims;
  const std::string_view trust_domain = claims.subject.trust_domain();
  const JwtAuthorities *const authorities = authorities_of(trust_domain);
  if (authorities == nullptr) {
    return failure(JwtError::unknown_trust_domain, std::string(trust_domain));
  }
  const auto found = authorities->find(token->key_id);
  if (token->key_id.empty() || found == authorities->end()) {
    return failure(JwtError::unknown_key, fmt::format("\"{}\"", printable(token->key_id)));
  }
  const PkeyPtr key = public_key_from_der(found->second);
  if (!key || !signature_holds(*token, key.get())) return failure(JwtError::bad_signature);
  // Nothing of an unsigned token is worth more than that it is unsigned.
  if (claims.expires <= now) {
    return failure(JwtError::expired, fmt::format("it expired at {}, the clock here says {}",
                                                  time_text(claims.expires), time_text(now)));
  }
  if (token->not_before && *token->not_before > now + kJwtSlack) {
    return failure(JwtError::not_yet_valid,
                   fmt::format("it is valid from {} on, the clock here says {}",
                               time_text(*token->not_before), time_text(now)));
  }
  if (std::find(claims.audience.begin(), claims.audience.end(), audience) ==
      claims.audience.end()) {
    return failure(JwtError::wrong_audience);
  }
  return std::move(claims);
}

std::span<const unsigned char> bytes_of(std::string_view text) {
  return {reinterpret_cast<const unsigned char *>(text.data()), text.size()};
}

// Empty when OpenSSL cannot.
Bytes sign_es256(std::string_view text, EVP_PKEY *key) {
  constexpr std::size_t kHalf = 32;
  const DigestContextPtr context(EVP_MD_CTX_new());
  std::size_t length = 0;
  if (!context ||
      EVP_DigestSignInit_ex(context.get(), nullptr, "SHA256", library_context(), nullptr, key,
                            nullptr) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &length, bytes_of(text).data(), text.size()) != 1) {
    return {};
  }
  Bytes der(length);
  if (EVP_DigestSign(context.get(), der.data(), &length, bytes_of(text).data(), text.size()) != 1) {
    return {};
  }
  const unsigned char *at = der.data();
  const EcdsaSignaturePtr signature(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(length)));
  Bytes raw(2 * kHalf);
  if (!signature || BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), raw.data(), kHalf) < 0 ||
      BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), raw.data() + kHalf, kHalf) < 0) {
    return {};
  }
  return raw;
}

}  // namespace

std::string_view sentence(JwtError error) noexcept {
  switch (error) {
    case JwtError::malformed:
      return "it is not a JWT in compact form";
    case JwtError::algorithm:
      return "its algorithm is not one of ES, RS and PS with 256, 384 and 512";
    case JwtError::wrong_type:
      return "its type is neither JWT nor JOSE";
    case JwtError::critical:
      return "its header has extensions that must be understood";
    case JwtError::no_subject:
      return "its subject is no SPIFFE ID of a workload";
    case JwtError::no_audience:
      return "it has no audience";
    case JwtError::no_expiry:
      return "it does not say when it expires";
    case JwtError::expired:
      return "it has expired";
    case JwtError::not_yet_valid:
      return "it is not valid yet";
    case JwtError::wrong_audience:
      return "it is for another audience";
    case JwtError::unknown_trust_domain:
      return "there are no JWT authorities for its trust domain";
    case JwtError::unknown_key:
      return "its trust domain has no key of that kid";
    case JwtError::bad_signature:
      return "its signature does not hold";
    case JwtError::internal:
      break;
  }
  return "an internal error";
}

tl::expected<JwtClaims, JwtFailure> validate_jwt_svid(std::string_view token,
                                                      std::string_view audience,
                                                      const JwtAuthoritiesOf &authorities,
                                                      std::time_t now) {
  const ErrorMark mark;
  try {
    return validate(token, audience, authorities, now);
  } catch (const std::bad_alloc &) {
    return failure(JwtError::internal, "out of memory");
  }
}

tl::expected<JwtClaims, JwtFailure> read_jwt_svid(std::string_view token) {
  const ErrorMark mark;
  try {
    auto read = read_token(token);
    if (!read) return tl::unexpected(read.error());
    return std::move(read->claims);
  } catch (const std::bad_alloc &) {
    return failure(JwtError::internal, "out of memory");
  }
}

tl::expected<std::string, JwtFailure> issue_jwt_svid(const SpiffeId &id,
                                                     std::span<const std::string> audience,
                                                     EVP_PKEY *key, std::time_t now,
                                                     std::time_t lifetime) {
  const ErrorMark mark;
  if (id.path().empty()) return failure(JwtError::no_subject, "it names a trust domain");
  const bool named = std::none_of(audience.begin(), audience.end(),
                                  [](const std::string &name) { return name.empty(); });
  if (audience.empty() || !named) return failure(JwtError::no_audience);
  if (jwk_curve(key) != "P-256") return failure(JwtError::algorithm, "the key is not on P-256");
  try {
    const Json header{{"alg", "ES256"}, {"kid", jwt_key_id(key)}, {"typ", "JWT"}};
    const Json claims{{"sub", id.uri()},
                      {"aud", std::vector<std::string>(audience.begin(), audience.end())},
                      {"iat", now},
                      {"exp", now + lifetime}};
    std::string token = to_base64url(bytes_of(header.dump())) + "." +
                        to_base64url(bytes_of(claims.dump(-1, ' ', true)));
    const Bytes signature = sign_es256(token, key);
    if (signature.empty()) return failure(JwtError::internal, "OpenSSL could not sign");
    token += "." + to_base64url(signature);
    return token;
  } catch (const Json::exception &) {
    return failure(JwtError::no_audience, "a name in it is not UTF-8");
  } catch (const std::bad_alloc &) {
    return failure(JwtError::internal, "out of memory");
  }
}

std::string jwt_key_id(const EVP_PKEY *key) {
  const std::string der = public_key_der(key);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  std::size_t length = 0;
  if (EVP_Q_digest(library_context(), "SHA256", nullptr, der.data(), der.size(), digest.data(),
                   &length) != 1) {
    return {};
  }
  return to_base64url({digest.data(), length / 2});
}

}  // namespace inlay::identity
