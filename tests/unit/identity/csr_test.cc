#include "identity/csr.h"

#include <doctest/doctest.h>
#include <openssl/x509v3.h>

#include "certificates.h"
#include "identity/certificate.h"

using namespace inlay::identity;
using inlay::testing::KeyKind;
using inlay::testing::make_key;

namespace {

std::string refusal(std::string_view csr) {
  const auto key = public_key_of_csr(csr);
  return key ? "" : key.error();
}

}  // namespace

TEST_CASE("a CSR gives its key, of each kind that peers accept") {
  for (const KeyKind kind : {KeyKind::p256, KeyKind::p384, KeyKind::rsa2048}) {
    const PkeyPtr key = make_key(kind);
    const auto found = public_key_of_csr(make_csr(key.get()));
    REQUIRE(found);
    CHECK(EVP_PKEY_eq(found->get(), key.get()) == 1);
    CHECK(public_key_digest(found->get()) == public_key_digest(key.get()));
  }
}

TEST_CASE("a CSR with a weak key is refused") {
  for (const KeyKind kind : {KeyKind::p224, KeyKind::secp256k1, KeyKind::p521, KeyKind::rsa1024}) {
    CHECK(refusal(make_csr(make_key(kind).get())).find("its key is") == 0);
  }
}

TEST_CASE("T71: a signature of another key, or over another request of the same, proves nothing") {
  const PkeyPtr mine = make_key(KeyKind::p256), another = make_key(KeyKind::p256);
  X509_REQ *const request = X509_REQ_new();
  X509_REQ_set_pubkey(request, another.get());
  X509_REQ_sign(request, mine.get(), EVP_sha256());
  unsigned char *der = nullptr;
  const int length = i2d_X509_REQ(request, &der);
  CHECK(refusal({reinterpret_cast<char *>(der), static_cast<std::size_t>(length)}) ==
        "the CSR is not signed with its key");
  OPENSSL_free(der);
  X509_REQ_free(request);

  using RequestPtr = std::unique_ptr<X509_REQ, OpensslDelete<X509_REQ_free>>;
  const auto parsed = [&](const char *uri) {
    const std::string bytes = make_csr(mine.get(), uri);
    const auto *position = reinterpret_cast<const unsigned char *>(bytes.data());
    return RequestPtr(d2i_X509_REQ(nullptr, &position, static_cast<long>(bytes.size())));
  };
  const RequestPtr asked = parsed("spiffe://example.org/a"),
                   signed_for = parsed("spiffe://example.org/b");
  const ASN1_BIT_STRING *signature = nullptr;
  X509_REQ_get0_signature(signed_for.get(), &signature, nullptr);
  X509_REQ_set0_signature(asked.get(), ASN1_STRING_dup(signature));
  unsigned char *moved = nullptr;
  const int size = i2d_X509_REQ(asked.get(), &moved);
  REQUIRE(size > 0);
  CHECK(refusal({reinterpret_cast<char *>(moved), static_cast<std::size_t>(size)}) ==
        "the CSR is not signed with its key");
  OPENSSL_free(moved);
}

TEST_CASE("what is no CSR is refused: cut short, longer, damaged, none at all") {
  const std::string good = make_csr(make_key(KeyKind::p256).get());
  REQUIRE(refusal(good).empty());
  CHECK_FALSE(refusal("").empty());
  CHECK_FALSE(refusal(good + "x").empty());
  CHECK_FALSE(refusal(std::string(20000, '0')).empty());
  for (std::size_t at = 0; at < good.size(); ++at) {
    CHECK_FALSE(refusal(good.substr(0, at)).empty());
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    CHECK_FALSE(refusal(damaged).empty());
  }
}
