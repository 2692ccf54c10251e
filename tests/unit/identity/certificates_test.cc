#include "certificates.h"

#include <doctest/doctest.h>
#include <openssl/x509v3.h>

using namespace inlay;
using namespace inlay::testing;

TEST_CASE("the tests' certificates chain to their root, for every kind of key") {
  for (const KeyKind kind :
       {KeyKind::p256, KeyKind::p384, KeyKind::p521, KeyKind::p224, KeyKind::secp256k1,
        KeyKind::rsa2048, KeyKind::rsa1024, KeyKind::rsa_pss2048, KeyKind::ed25519}) {
    Knobs knobs;
    knobs.key = kind;
    const Identity root = make_authority("example.org", knobs);
    const Identity leaf = issue(make_intermediate(root, "example.org"), "spiffe://example.org/a");
    REQUIRE(leaf.intermediates.size() == 1);
    CHECK(X509_verify(leaf.intermediates[0].get(), root.key.get()) == 1);
    CHECK(X509_check_private_key(leaf.certificate.get(), leaf.key.get()) == 1);
    CHECK(sk_X509_num(stack_of(leaf).get()) == 2);
  }
}

TEST_CASE("the tests' material holds what it is given") {
  const Identity root = make_authority("example.org");
  const Identity leaf = issue(root, "spiffe://example.org/a");
  const auto material = make_material(leaf, "spiffe://example.org/a",
                                      bundles_of({{"example.org", root.certificate.get()}}));
  CHECK(material->svid.id.path() == "/a");
  CHECK(material->svid.chain.size() == 1);
  CHECK(material->bundles.at("example.org").authorities.size() == 1);
}
