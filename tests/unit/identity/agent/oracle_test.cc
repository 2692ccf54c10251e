#include "identity/agent/oracle.h"

#include <doctest/doctest.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <string>

#include "certificates.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::agent;

namespace {

std::string input_of(const std::string &role, std::size_t hash_length) {
  return std::string(64, ' ') + "TLS 1.3, " + role + " CertificateVerify" + '\0' +
         std::string(hash_length, 'h');
}

bool verifies(EVP_PKEY *key, const char *digest, bool pss, const std::string &signature,
              const std::string &data) {
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  EVP_PKEY_CTX *key_context = nullptr;
  bool good = EVP_DigestVerifyInit_ex(context, &key_context, digest, library_context(), nullptr,
                                      key, nullptr) == 1;
  if (pss) {
    good = good && EVP_PKEY_CTX_set_rsa_padding(key_context, RSA_PKCS1_PSS_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_pss_saltlen(key_context, RSA_PSS_SALTLEN_DIGEST) == 1;
  }
  good = good &&
         EVP_DigestVerify(context, reinterpret_cast<const unsigned char *>(signature.data()),
                          signature.size(), reinterpret_cast<const unsigned char *>(data.data()),
                          data.size()) == 1;
  EVP_MD_CTX_free(context);
  return good;
}

}  // namespace

TEST_CASE("only a CertificateVerify of TLS 1.3 is one (T61)") {
  CHECK(role_of_certificate_verify(32, input_of("client", 32)) == "client");
  CHECK(role_of_certificate_verify(48, input_of("server", 48)) == "server");

  std::string good = input_of("client", 32);
  struct Row {
    const char *what;
    std::uint32_t hash_length;
    std::string input;
  } rows[] = {
      {"nothing", 32, ""},
      {"arbitrary bytes", 32, std::string(good.size(), 'x')},
      {"a byte more", 32, good + "h"},
      {"a byte less", 32, good.substr(0, good.size() - 1)},
      {"63 spaces", 32, good.substr(1) + "h"},
      {"65 spaces", 32, " " + good.substr(0, good.size() - 1)},
      {"another role", 32, input_of("clienT", 32)},
      {"a hash of no suite", 20, input_of("client", 20)},
      {"no hash", 0, input_of("client", 0)},
      {"a length that wraps", 0xffffffff, good},
      {"the other hash", 48, good},
  };
  for (const Row &row : rows) {
    INFO(row.what);
    auto role = role_of_certificate_verify(row.hash_length, row.input);
    REQUIRE_FALSE(role.has_value());
    CHECK(role.error().refusal == AgentRefusal::not_a_handshake);
  }
  for (std::size_t at = 0; at < good.size() - 32; ++at) {
    INFO(at);
    std::string changed = good;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    CHECK_FALSE(role_of_certificate_verify(32, changed).has_value());
  }
}

TEST_CASE("a key signs by the schemes it can do and no others") {
  struct Row {
    testing::KeyKind kind;
    std::uint16_t scheme;
    const char *digest;  // null: refused
    bool pss;
  } rows[] = {
      {testing::KeyKind::p256, 0x0403, "SHA256", false},
      {testing::KeyKind::p384, 0x0503, "SHA384", false},
      {testing::KeyKind::rsa2048, 0x0804, "SHA256", true},
      {testing::KeyKind::rsa2048, 0x0805, "SHA384", true},
      {testing::KeyKind::rsa2048, 0x0806, "SHA512", true},
      {testing::KeyKind::p256, 0x0503, nullptr, false},
      {testing::KeyKind::p384, 0x0403, nullptr, false},
      {testing::KeyKind::p256, 0x0804, nullptr, false},
      {testing::KeyKind::rsa2048, 0x0401, nullptr, false},  // PKCS #1: not in TLS 1.3
      {testing::KeyKind::rsa2048, 0x0201, nullptr, false},
      {testing::KeyKind::rsa2048, 0x0403, nullptr, false},
      {testing::KeyKind::p256, 0, nullptr, false},
  };
  const std::string input = input_of("server", 32);
  for (const Row &row : rows) {
    INFO(row.scheme);
    PkeyPtr key = testing::make_key(row.kind);
    auto signature = sign_certificate_verify(key.get(), row.scheme, input);
    CHECK(signature.has_value() == (row.digest != nullptr));
    if (signature) CHECK(verifies(key.get(), row.digest, row.pss, *signature, input));
  }
}
