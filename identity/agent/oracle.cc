#include "identity/agent/oracle.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <array>
#include <memory>

#include "identity/certificate.h"

namespace inlay::identity::agent {
namespace {

using DigestContext = std::unique_ptr<EVP_MD_CTX, OpensslDelete<EVP_MD_CTX_free>>;

// The schemes of the keys an SVID may have (identity/certificate.h).
struct Scheme {
  std::uint16_t number;  // SignatureScheme
  const char *type;
  const char *group;  // null: any
  const char *digest;
};
constexpr Scheme kSchemes[] = {
    {0x0403, "EC", "prime256v1", "SHA256"},  // ecdsa_secp256r1_sha256
    {0x0503, "EC", "secp384r1", "SHA384"},   // ecdsa_secp384r1_sha384
    {0x0804, "RSA", nullptr, "SHA256"},      // rsa_pss_rsae_sha256
    {0x0805, "RSA", nullptr, "SHA384"},      // rsa_pss_rsae_sha384
    {0x0806, "RSA", nullptr, "SHA512"},      // rsa_pss_rsae_sha512
};

bool has_group(const EVP_PKEY *key, const char *wanted) {
  std::array<char, 64> name{};
  std::size_t length = 0;
  return EVP_PKEY_get_group_name(key, name.data(), name.size(), &length) == 1 &&
         std::string_view(name.data(), length) == wanted;
}

}  // namespace

tl::expected<std::string_view, Refused> role_of_certificate_verify(std::uint32_t hash_length,
                                                                   std::string_view input) {
  auto no = [](const char *why) {
    return tl::unexpected(refused(AgentRefusal::not_a_handshake, "", why));
  };
  // SHA-256 and SHA-384, the hashes of TLS 1.3's cipher suites.
  if (hash_length != 32 && hash_length != 48) return no("no hash of that length");
  constexpr std::size_t kContext = sizeof kServerContext;  // with its NUL
  if (input.size() != kSignaturePadding + kContext + hash_length) return no("wrong length");
  if (input.substr(0, kSignaturePadding).find_first_not_of(' ') != std::string_view::npos) {
    return no("it does not begin with 64 spaces");
  }
  const std::string_view context = input.substr(kSignaturePadding, kContext);
  if (context == std::string_view(kClientContext, kContext)) return "client";
  if (context == std::string_view(kServerContext, kContext)) return "server";
  return no("not the context string of TLS 1.3");
}

tl::expected<std::string, Refused> sign_certificate_verify(EVP_PKEY *key, std::uint16_t scheme,
                                                           std::string_view input) {
  ErrorMark mark;
  const Scheme *found = nullptr;
  for (const Scheme &known : kSchemes) {
    if (known.number == scheme && EVP_PKEY_is_a(key, known.type) == 1 &&
        (known.group == nullptr || has_group(key, known.group))) {
      found = &known;
    }
  }
  if (found == nullptr) {
    return tl::unexpected(refused(AgentRefusal::not_a_handshake, "",
                                  fmt::format("the key cannot do scheme {:#06x}", scheme)));
  }
  auto failed = [] {
    return tl::unexpected(refused(AgentRefusal::internal, "", "OpenSSL failed"));
  };
  DigestContext context(EVP_MD_CTX_new());
  EVP_PKEY_CTX *key_context = nullptr;
  if (!context || EVP_DigestSignInit_ex(context.get(), &key_context, found->digest,
                                        library_context(), nullptr, key, nullptr) != 1) {
    return failed();
  }
  if (found->group == nullptr &&
      (EVP_PKEY_CTX_set_rsa_padding(key_context, RSA_PKCS1_PSS_PADDING) != 1 ||
       EVP_PKEY_CTX_set_rsa_pss_saltlen(key_context, RSA_PSS_SALTLEN_DIGEST) != 1)) {
    return failed();
  }
  const auto *data = reinterpret_cast<const unsigned char *>(input.data());
  std::size_t length = 0;
  if (EVP_DigestSign(context.get(), nullptr, &length, data, input.size()) != 1) return failed();
  std::string signature(length, '\0');
  if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char *>(signature.data()), &length,
                     data, input.size()) != 1) {
    return failed();
  }
  signature.resize(length);
  return signature;
}

}  // namespace inlay::identity::agent
