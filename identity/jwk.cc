#include "identity/jwk.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>

#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "identity/base64.h"
#include "identity/certificate.h"
#include "identity/strict_json.h"

namespace inlay::identity {
namespace {

using Json = nlohmann::json;
using NumberPtr = std::unique_ptr<BIGNUM, OpensslDelete<BN_free>>;
using BuilderPtr = std::unique_ptr<OSSL_PARAM_BLD, OpensslDelete<OSSL_PARAM_BLD_free>>;
using ParametersPtr = std::unique_ptr<OSSL_PARAM, OpensslDelete<OSSL_PARAM_free>>;
using PkeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, OpensslDelete<EVP_PKEY_CTX_free>>;

struct Curve {
  std::string_view name;  // of JWK
  const char *group;      // of OpenSSL
  std::size_t bytes;      // of a coordinate
};

constexpr std::array<Curve, 3> kCurves{
    {{"P-256", "prime256v1", 32}, {"P-384", "secp384r1", 48}, {"P-521", "secp521r1", 66}}};

const Curve *curve_named(std::string_view name) {
  for (const Curve &curve : kCurves) {
    if (curve.name == name) return &curve;
  }
  return nullptr;
}

const Curve *curve_of(const EVP_PKEY *key) {
  std::array<char, 64> group{};
  if (EVP_PKEY_is_a(key, "EC") != 1 ||
      EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group.data(), group.size(),
                                     nullptr) != 1) {
    return nullptr;
  }
  for (const Curve &curve : kCurves) {
    if (std::strcmp(curve.group, group.data()) == 0) return &curve;
  }
  return nullptr;
}

PkeyPtr build(const char *kind, OSSL_PARAM_BLD *builder) {
  const ParametersPtr parameters(OSSL_PARAM_BLD_to_param(builder));
  const PkeyContextPtr context(EVP_PKEY_CTX_new_from_name(library_context(), kind, nullptr));
  EVP_PKEY *key = nullptr;
  if (!parameters || !context || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, parameters.get()) != 1) {
    return nullptr;
  }
  return PkeyPtr(key);
}

// RFC 7518 §6.2.1: both coordinates have the curve's full length.
tl::expected<PkeyPtr, std::string> ec_key(const Json &key, const Curve &curve) {
  const auto x = from_base64url(json_text(key, "x"));
  const auto y = from_base64url(json_text(key, "y"));
  if (!x || !y || x->size() != curve.bytes || y->size() != curve.bytes) {
    return tl::unexpected(std::string("has coordinates that are not of its curve"));
  }
  std::vector<unsigned char> point{POINT_CONVERSION_UNCOMPRESSED};
  point.insert(point.end(), x->begin(), x->end());
  point.insert(point.end(), y->begin(), y->end());
  const BuilderPtr builder(OSSL_PARAM_BLD_new());
  if (!builder ||
      OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, curve.group, 0) !=
          1 ||
      OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                       point.size()) != 1) {
    return tl::unexpected(std::string("could not be read: out of memory"));
  }
  PkeyPtr made = build("EC", builder.get());
  if (!made) return tl::unexpected(std::string("is no point of its curve"));
  return made;
}

tl::expected<PkeyPtr, std::string> rsa_key(const Json &key) {
  const auto modulus = from_base64url(json_text(key, "n"));
  const auto exponent = from_base64url(json_text(key, "e"));
  constexpr std::size_t kMaxExponentBytes = 8;
  if (!modulus || !exponent || modulus->size() > kMaxRsaBits / 8 || exponent->empty() ||
      exponent->size() > kMaxExponentBytes) {
    return tl::unexpected(std::string("has no usable modulus and exponent"));
  }
  const NumberPtr n(BN_bin2bn(modulus->data(), static_cast<int>(modulus->size()), nullptr));
  const NumberPtr e(BN_bin2bn(exponent->data(), static_cast<int>(exponent->size()), nullptr));
  if (!n || !e) return tl::unexpected(std::string("could not be read: out of memory"));
  if (BN_num_bits(n.get()) < kMinRsaBits) {
    return tl::unexpected(std::string("is an RSA key of less than 2048 bits"));
  }
  if (BN_is_odd(e.get()) != 1 || BN_is_one(e.get()) == 1) {
    return tl::unexpected(std::string("has an exponent that is none of RSA"));
  }
  const BuilderPtr builder(OSSL_PARAM_BLD_new());
  if (!builder || OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) != 1) {
    return tl::unexpected(std::string("could not be read: out of memory"));
  }
  PkeyPtr made = build("RSA", builder.get());
  if (!made) return tl::unexpected(std::string("is no RSA key"));
  return made;
}

// `bytes` = 0: as many as the number needs.
std::string number_text(const EVP_PKEY *key, const char *parameter, std::size_t bytes) {
  BIGNUM *raw = nullptr;
  if (EVP_PKEY_get_bn_param(key, parameter, &raw) != 1) return {};
  const NumberPtr number(raw);
  if (bytes == 0) bytes = static_cast<std::size_t>(BN_num_bytes(number.get()));
  std::vector<unsigned char> text(bytes);
  if (BN_bn2binpad(number.get(), text.data(), static_cast<int>(bytes)) < 0) return {};
  return to_base64url(text);
}

}  // namespace

tl::expected<PkeyPtr, std::string> public_key_from_jwk(const Json &key) {
  const ErrorMark mark;
  const std::string_view kind = json_text(key, "kty");
  if (kind == "RSA") return rsa_key(key);
  if (kind != "EC") return PkeyPtr();
  const Curve *const curve = curve_named(json_text(key, "crv"));
  return curve != nullptr ? ec_key(key, *curve) : PkeyPtr();
}

Json jwk_of(const EVP_PKEY *key) {
  const ErrorMark mark;
  if (const Curve *const curve = curve_of(key); curve != nullptr) {
    return {{"kty", "EC"},
            {"crv", curve->name},
            {"x", number_text(key, OSSL_PKEY_PARAM_EC_PUB_X, curve->bytes)},
            {"y", number_text(key, OSSL_PKEY_PARAM_EC_PUB_Y, curve->bytes)}};
  }
  if (EVP_PKEY_is_a(key, "RSA") == 1) {
    return {{"kty", "RSA"},
            {"n", number_text(key, OSSL_PKEY_PARAM_RSA_N, 0)},
            {"e", number_text(key, OSSL_PKEY_PARAM_RSA_E, 0)}};
  }
  return Json::object();
}

std::string public_key_der(const EVP_PKEY *key) {
  unsigned char *der = nullptr;
  const int length = i2d_PUBKEY(key, &der);
  if (length <= 0) return {};
  std::string bytes(reinterpret_cast<const char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return bytes;
}

PkeyPtr public_key_from_der(std::string_view der) {
  const ErrorMark mark;
  const auto *at = reinterpret_cast<const unsigned char *>(der.data());
  const unsigned char *const end = at + der.size();
  PkeyPtr key(
      d2i_PUBKEY_ex(nullptr, &at, static_cast<long>(der.size()), library_context(), nullptr));
  return key && at == end ? std::move(key) : nullptr;
}

std::string_view jwk_curve(const EVP_PKEY *key) {
  const ErrorMark mark;
  const Curve *const curve = curve_of(key);
  return curve != nullptr ? curve->name : std::string_view();
}

}  // namespace inlay::identity
