#include "identity/trust_domain_bundle.h"

#include <doctest/doctest.h>

#include "certificates.h"
#include "identity/base64.h"
#include "identity/jwk.h"
#include "identity/jwt_svid.h"

using namespace inlay;
using namespace inlay::testing;
using namespace inlay::identity;

namespace {

// RFC 7515 §A.3.1 and §A.2.1: public keys that are not of our own making.
constexpr std::string_view kEc =
    R"("kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",)"
    R"("y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")";
constexpr std::string_view kRsa =
    R"("kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4q)"
    R"(PCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL)"
    R"(-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9k)"
    R"(G4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB")";

std::string document(const std::string &keys, const std::string &more = "") {
  return R"({"keys":[)" + keys + "]" + more + "}";
}
std::string jwt_key(std::string_view key, const std::string &kid) {
  return "{" + std::string(key) + R"(,"use":"jwt-svid","kid":")" + kid + "\"}";
}
std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != text.npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a bundle document is read back as it was written") {
  TrustDomainBundle bundle;
  for (const KeyKind kind : {KeyKind::p256, KeyKind::rsa2048}) {
    Knobs knobs;
    knobs.key = kind;
    const Identity root = make_authority("example.org", knobs);
    const auto der = from_base64(to_base64_der(root.certificate.get()));
    bundle.x509_authorities.emplace_back(der->begin(), der->end());
  }
  for (const KeyKind kind : {KeyKind::p256, KeyKind::p384, KeyKind::p521, KeyKind::rsa2048}) {
    const PkeyPtr key = make_key(kind);
    bundle.jwt_authorities[jwt_key_id(key.get())] = public_key_der(key.get());
  }
  bundle.sequence = 18446744073709551615u;
  bundle.refresh_hint = 60;
  const std::string text = bundle_document(bundle);
  CAPTURE(text);
  const auto read = parse_trust_domain_bundle(text);
  REQUIRE(read);
  CHECK(*read == bundle);
  REQUIRE(parse_bundle(text));
  CHECK(parse_bundle(text)->authorities.size() == 2);

  const auto keys = parse_jwt_authorities(jwk_set(bundle.jwt_authorities));
  REQUIRE(keys);
  CHECK(*keys == bundle.jwt_authorities);
  CHECK(jwk_set(bundle.jwt_authorities).find("use") == std::string::npos);
}

TEST_CASE("keys that others made are read, and PEM has X.509 authorities alone") {
  const auto read =
      parse_trust_domain_bundle(document(jwt_key(kEc, "a") + "," + jwt_key(kRsa, "b")));
  REQUIRE(read);
  CHECK(read->jwt_authorities.size() == 2);
  CHECK(read->refresh_hint == 300);
  const auto pem = parse_trust_domain_bundle(to_pem(make_authority("a.test").certificate.get()));
  REQUIRE(pem);
  CHECK(pem->x509_authorities.size() == 1);
  CHECK(pem->jwt_authorities.empty());
}

TEST_CASE("what is unknown is ignored; what is broken spoils the document") {
  struct Row {
    const char *name;
    std::string text;
    int keys;  // -1: refused
  };
  const std::string good = jwt_key(kEc, "a");
  const std::string unnamed = "{" + std::string(kEc) + R"(,"use":"jwt-svid"})";
  const Row rows[] = {
      {"no keys at all", document(""), 0},
      {"another use", document(replaced(good, "jwt-svid", "wit-svid")), 0},
      {"no use", document(replaced(good, R"("use":"jwt-svid",)", "")), 0},
      {"another kind", document(good + R"(,{"kty":"OKP","use":"jwt-svid","crv":"Ed25519"})"), 1},
      {"another curve", document(replaced(good, "P-256", "secp256k1")), 0},
      {"unknown members", document(replaced(good, "{", R"({"x5t":1,"key_ops":["verify"],)")), 1},
      {"no kid", document(unnamed), -1},
      {"an empty kid", document(jwt_key(kEc, "")), -1},
      {"a kid that is a number", document(replaced(good, R"("kid":"a")", R"("kid":1)")), -1},
      {"a kid of 257 bytes", document(jwt_key(kEc, std::string(257, 'a'))), -1},
      {"a kid twice", document(good + "," + jwt_key(kRsa, "a")), -1},
      {"a short coordinate", document(replaced(good, "\"x\":\"f8", "\"x\":\"")), -1},
      {"no coordinate", document(replaced(good, "\"y\"", "\"z\"")), -1},
      {"base64, not base64url", document(replaced(good, "x_FE", "x/FE")), -1},
      {"off the curve", document(replaced(good, "f83O", "f83P")), -1},
      {"another curve's name", document(replaced(good, "P-256", "P-384")), -1},
      {"an exponent of one", document(replaced(jwt_key(kRsa, "a"), "AQAB", "AQ")), -1},
      {"an even exponent", document(replaced(jwt_key(kRsa, "a"), "AQAB", "AQAC")), -1},
      {"a small modulus",
       document(R"({"kty":"RSA","n":"ofgW","e":"AQAB","use":"jwt-svid","kid":"a"})"), -1},
      {"no object", document("1"), -1},
      {"a hint that is none", document(good, R"(,"spiffe_refresh_hint":-1)"), -1},
      {"a hint of years", document(good, R"(,"spiffe_refresh_hint":4294967296)"), -1},
      {"a broken x5c", document(good + R"(,{"kty":"EC","use":"x509-svid","x5c":["AAAA"]})"), -1},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    CAPTURE(row.text);
    const auto read = parse_trust_domain_bundle(row.text);
    CHECK((read ? static_cast<int>(read->jwt_authorities.size()) : -1) == row.keys);
    if (!read) CHECK(read.error().message.find('\n') == std::string::npos);
  }
}

TEST_CASE("a hint of no time at all is the default") {
  const auto read = parse_trust_domain_bundle(document("", R"(,"spiffe_refresh_hint":0)"));
  REQUIRE(read);
  CHECK(read->refresh_hint == 300);
}

TEST_CASE("a JWK Set of signing keys needs no use, and no other use is taken for one") {
  const std::string unused = replaced(jwt_key(kEc, "a"), R"("use":"jwt-svid",)", "");
  CHECK(parse_jwt_authorities(document(unused))->size() == 1);
  CHECK(parse_jwt_authorities(document(jwt_key(kEc, "a")))->size() == 1);
  CHECK(parse_jwt_authorities(document(replaced(jwt_key(kEc, "a"), "jwt-svid", "sig")))->empty());
  for (const char *bad : {"", "{}", "[]", "1", R"({"keys":{}})", R"({"keys":[],"keys":[]})"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_jwt_authorities(bad));
  }
}

TEST_CASE("a public key is PKIX DER and nothing after it") {
  const PkeyPtr key = make_key(KeyKind::p256);
  const std::string der = public_key_der(key.get());
  REQUIRE(public_key_from_der(der));
  CHECK_FALSE(public_key_from_der(der + "x"));
  CHECK_FALSE(public_key_from_der(der.substr(1)));
  CHECK_FALSE(public_key_from_der(""));
  CHECK(jwk_curve(key.get()) == "P-256");
  CHECK(jwk_curve(make_key(KeyKind::rsa2048).get()).empty());
  CHECK(jwk_curve(make_key(KeyKind::secp256k1).get()).empty());
}
