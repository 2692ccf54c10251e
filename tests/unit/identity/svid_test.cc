#include "identity/svid.h"

#include <doctest/doctest.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "certificates.h"

using namespace inlay;
using namespace inlay::testing;
using identity::parse_svid;

namespace {

constexpr const char *kId = "spiffe://example.org/web";

const Identity &root() {
  static const Identity authority = make_authority("example.org");
  return authority;
}

std::string complaint(std::string_view chain, std::string_view key) {
  const auto svid = parse_svid(chain, key);
  CHECK(ERR_peek_error() == 0);
  if (svid) return "";
  CHECK(svid.error().message.find('\n') == std::string::npos);
  return svid.error().message;
}

std::string traditional_pem(EVP_PKEY *key) {
  const identity::BioPtr bio(BIO_new(BIO_s_mem()));
  REQUIRE(PEM_write_bio_PrivateKey_traditional(bio.get(), key, nullptr, nullptr, 0, nullptr,
                                               nullptr) == 1);
  char *data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(length)};
}

// Of `openssl pkcs8 -topk8 -v2 aes-128-cbc`.
constexpr const char *kEncryptedKey =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhAjZXErVf/GQICCAAw\n"
    "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEKCzyQFq0MVEMi05455RYsMEgZCv\n"
    "ya7bYsKHv6oVonUnnq2fHHd9Y8XUBRSSZPcId69ghy8g4TvkL3tWYx3yPx626ZZ+\n"
    "mVQpW8/JqyJm01RDSmAESJdzukNvgY4toFKGSDDj/KEqe8BcjJmslOYKT9rdVuJJ\n"
    "bLoPXzDfVxnG+4opXOa5rV+DNBxEe2zWOw3kYK8NDgq/vH815K9zh4YemkYOFPY=\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n";

}  // namespace

TEST_CASE("a chain and its key make an SVID") {
  const Identity intermediate = make_intermediate(root(), "example.org");
  for (const KeyKind kind : {KeyKind::p256, KeyKind::p384, KeyKind::rsa2048}) {
    Knobs knobs;
    knobs.key = kind;
    const Identity leaf = issue(intermediate, kId, knobs);
    for (const std::string &key : {to_pem(leaf.key.get()), traditional_pem(leaf.key.get())}) {
      const auto svid = parse_svid(chain_pem(leaf), key);
      REQUIRE(svid);
      CHECK(svid->id.uri() == kId);
      CHECK(svid->chain.size() == 2);
      CHECK(svid->not_before == now() - 60);
      CHECK(svid->not_after == now() + 3600);
      CHECK(EVP_PKEY_eq(svid->key.get(), leaf.key.get()) == 1);
    }
  }
}

TEST_CASE("an expired SVID parses: dates are for others to judge") {
  Knobs knobs;
  knobs.not_after = now() - 1;
  const Identity leaf = issue(root(), kId, knobs);
  CHECK(parse_svid(chain_pem(leaf), to_pem(leaf.key.get())));
}

TEST_CASE("a key that is not the certificate's, or no key, is an error") {
  const Identity leaf = issue(root(), kId);
  const std::string chain = chain_pem(leaf);
  CHECK(complaint(chain, to_pem(make_key(KeyKind::p256).get())) ==
        "the key does not belong to the certificate");
  CHECK(complaint(chain, to_pem(make_key(KeyKind::rsa2048).get())) ==
        "the key does not belong to the certificate");
  CHECK(complaint(chain, chain) == "the key is not a private key in PEM");
  CHECK(complaint(chain, "") == "the key is not a private key in PEM");
  const std::string key = to_pem(leaf.key.get());
  for (std::size_t length = 0; length < key.size() - 1; length += 7) {
    CHECK(complaint(chain, std::string_view(key).substr(0, length)) ==
          "the key is not a private key in PEM");
  }
}

TEST_CASE("an encrypted key is refused and nobody is asked for a passphrase") {
  const Identity leaf = issue(root(), kId);
  const std::string refusal = "the key is encrypted; store it without a passphrase";
  for (const char *cipher : {"AES-256-CBC", "DES-EDE3-CBC", "IDEA-CBC"}) {
    CAPTURE(cipher);
    CHECK(complaint(chain_pem(leaf), std::string("-----BEGIN EC PRIVATE KEY-----\n"
                                                 "Proc-Type: 4,ENCRYPTED\nDEK-Info: ") +
                                         cipher +
                                         ",00112233445566778899AABBCCDDEEFF\n\n"
                                         "c2VjcmV0c2VjcmV0\n-----END EC PRIVATE KEY-----\n") ==
          refusal);
  }
  CHECK(complaint(chain_pem(leaf), kEncryptedKey) == refusal);
}

TEST_CASE("T1-T7 a chain whose first certificate is no leaf is an error") {
  Knobs authority;
  authority.basic_constraints = "critical,CA:TRUE";
  Knobs without_usage;
  without_usage.key_usage = "";
  Knobs two_names;
  two_names.uris = std::vector<std::string>{kId, kId};
  Knobs weak;
  weak.key = KeyKind::rsa1024;
  for (const Knobs &knobs : {authority, without_usage, two_names, weak}) {
    const Identity leaf = issue(root(), kId, knobs);
    CHECK(complaint(chain_pem(leaf), to_pem(leaf.key.get())) != "");
  }
  const Identity leaf = issue(make_intermediate(root(), "example.org"), kId);
  const std::string reversed = to_pem(leaf.intermediates[0].get()) + to_pem(leaf.certificate.get());
  CHECK(complaint(reversed, to_pem(leaf.key.get())).find("names a trust domain") !=
        std::string::npos);
  CHECK(complaint("", to_pem(leaf.key.get())).find("no certificate") != std::string::npos);
}

TEST_CASE("T16 a chain peers would refuse for its length is refused before it is sent") {
  Identity deep = make_intermediate(root(), "example.org");
  while (deep.intermediates.size() < 7) deep = make_intermediate(deep, "example.org");
  const Identity leaf = issue(deep, kId);
  CHECK(complaint(chain_pem(leaf), to_pem(leaf.key.get())).find("9 certificates") !=
        std::string::npos);
  Knobs padded;
  padded.padding = 32768;
  const Identity heavy = issue(root(), kId, padded);
  CHECK(complaint(chain_pem(heavy), to_pem(heavy.key.get())).find("bytes") != std::string::npos);
}
