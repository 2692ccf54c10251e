#include "identity/verify.h"

#include <doctest/doctest.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <functional>

#include "certificates.h"
#include "identity/certificate.h"

using namespace inlay;
using namespace inlay::testing;
using identity::BundleSet;
using identity::VerifyError;

namespace {

constexpr const char *kTrustDomain = "example.org";
constexpr const char *kId = "spiffe://example.org/ns/web";

const Identity &root() {
  static const Identity authority = make_authority(kTrustDomain);
  return authority;
}

BundleSet trusting(const Identity &authority) {
  return bundles_of({{kTrustDomain, authority.certificate.get()}});
}

// "" for success, else the error's sentence: doctest prints both sides of a comparison.
std::string outcome(const STACK_OF(X509) * chain, const BundleSet &bundles,
                    std::time_t at = now()) {
  const auto id = identity::verify_x509_svid(chain, bundles, at);
  CHECK(ERR_peek_error() == 0);  // libssl judges a connection by this queue
  if (id) return "";
  CAPTURE(id.error().detail);
  CHECK(id.error().detail.find('\n') == std::string::npos);
  return std::string(sentence(id.error().error));
}
std::string outcome(const Identity &leaf, const BundleSet &bundles, std::time_t at = now()) {
  return outcome(stack_of(leaf).get(), bundles, at);
}
std::string expected(VerifyError error) { return std::string(sentence(error)); }

// A row breaks one thing in a leaf that would be good without it.
struct LeafRow {
  const char *name;
  Knobs knobs;
  VerifyError error;
};

Knobs with(const std::function<void(Knobs &)> &change) {
  Knobs knobs;
  change(knobs);
  return knobs;
}

void check_rows(const std::vector<LeafRow> &rows) {
  const BundleSet bundles = trusting(root());
  for (const LeafRow &row : rows) {
    CAPTURE(row.name);
    CHECK(outcome(issue(root(), kId, row.knobs), bundles) == expected(row.error));
  }
}

}  // namespace

TEST_CASE("a good leaf is verified and its SPIFFE ID returned") {
  const Identity leaf = issue(root(), kId);
  const auto id = identity::verify_x509_svid(stack_of(leaf).get(), trusting(root()), now());
  REQUIRE(id);
  CHECK(id->uri() == kId);
}

TEST_CASE("leaves with what the standard leaves open are accepted") {
  const BundleSet bundles = trusting(root());
  for (const Knobs &knobs : {
           with([](Knobs &k) {
             k.dns_names = {"web.example.org", "other"};
           }),
           with([](Knobs &k) { k.extended_key_usage = ""; }),
           with([](Knobs &k) { k.extended_key_usage = "clientAuth,codeSigning,serverAuth"; }),
           with([](Knobs &k) { k.basic_constraints = ""; }),
           with([](Knobs &k) { k.subject = "web"; }),
           with([](Knobs &k) { k.key_usage = "critical,digitalSignature,keyAgreement"; }),
           with([](Knobs &k) { k.key = KeyKind::p384; }),
           with([](Knobs &k) { k.key = KeyKind::rsa2048; }),
           with([](Knobs &k) { k.digest = "SHA512"; }),
           with([](Knobs &k) { k.key_identifiers = false; }),
       }) {
    CHECK(outcome(issue(root(), kId, knobs), bundles) == "");
  }
}

TEST_CASE("T1 T2 T3 a leaf needs exactly one URI SAN, a SPIFFE ID") {
  using Uris = std::vector<std::string>;
  check_rows({
      {"T1 two SPIFFE IDs", with([](Knobs &k) {
         k.uris = Uris{kId, "spiffe://example.org/b"};
       }),
       VerifyError::several_uri_sans},
      {"T1 the same twice", with([](Knobs &k) {
         k.uris = Uris{kId, kId};
       }),
       VerifyError::several_uri_sans},
      {"T1 one SPIFFE ID and another URI", with([](Knobs &k) {
         k.uris = Uris{"https://example.org/", kId};
       }),
       VerifyError::several_uri_sans},
      {"T2 no SAN at all", with([](Knobs &k) {
         k.uris = Uris{};
         k.subject = kId;
       }),
       VerifyError::no_uri_san},
      {"T2 a DNS SAN only", with([](Knobs &k) {
         k.uris = Uris{};
         k.dns_names = {kId};
       }),
       VerifyError::no_uri_san},
      {"T3 https", with([](Knobs &k) { k.uris = Uris{"https://example.org/ns/web"}; }),
       VerifyError::not_a_spiffe_id},
      {"T3 upper case", with([](Knobs &k) { k.uris = Uris{"SPIFFE://example.org/ns/web"}; }),
       VerifyError::not_a_spiffe_id},
      {"T3 empty", with([](Knobs &k) { k.uris = Uris{""}; }), VerifyError::not_a_spiffe_id},
      {"root path", with([](Knobs &k) { k.uris = Uris{"spiffe://example.org"}; }),
       VerifyError::root_path},
      {"root path with slash", with([](Knobs &k) { k.uris = Uris{"spiffe://example.org/"}; }),
       VerifyError::not_a_spiffe_id},
  });
}

TEST_CASE("T4 a leaf is no authority") {
  check_rows({
      {"cA", with([](Knobs &k) { k.basic_constraints = "critical,CA:TRUE"; }),
       VerifyError::leaf_is_ca},
      {"cA not critical", with([](Knobs &k) { k.basic_constraints = "CA:TRUE"; }),
       VerifyError::leaf_is_ca},
      {"cA and keyCertSign", with([](Knobs &k) {
         k.basic_constraints = "critical,CA:TRUE,pathlen:0";
         k.key_usage = "critical,digitalSignature,keyCertSign";
       }),
       VerifyError::leaf_is_ca},
  });
}

TEST_CASE("T5 T6 T7 a leaf's keyUsage is present, critical and for signatures only") {
  check_rows({
      {"T5", with([](Knobs &k) { k.key_usage = "critical,digitalSignature,keyCertSign"; }),
       VerifyError::key_usage_wrong},
      {"T6", with([](Knobs &k) { k.key_usage = "critical,digitalSignature,cRLSign"; }),
       VerifyError::key_usage_wrong},
      {"T7 absent", with([](Knobs &k) { k.key_usage = ""; }), VerifyError::key_usage_missing},
      {"T7 not critical", with([](Knobs &k) { k.key_usage = "digitalSignature"; }),
       VerifyError::key_usage_missing},
      {"no digitalSignature", with([](Knobs &k) { k.key_usage = "critical,keyAgreement"; }),
       VerifyError::key_usage_wrong},
  });
}

TEST_CASE("T8 an extended key usage is for both roles or absent") {
  for (const char *usage : {"serverAuth", "clientAuth", "anyExtendedKeyUsage", "codeSigning",
                            "serverAuth,codeSigning", "clientAuth,anyExtendedKeyUsage"}) {
    check_rows({{usage, with([usage](Knobs &k) { k.extended_key_usage = usage; }),
                 VerifyError::extended_key_usage}});
  }
}

TEST_CASE("T9 T10 dates are held to the second, with slack for a fast clock only") {
  const std::time_t from = now() - 1000, until = now() + 1000;
  const Identity leaf = issue(root(), kId, with([&](Knobs &k) {
                                k.not_before = from;
                                k.not_after = until;
                              }));
  struct Row {
    std::time_t at;
    std::string outcome;
  };
  for (const Row &row : {
           Row{until - 1, ""},
           Row{until + 1, expected(VerifyError::expired)},
           Row{until + 86400 * 400, expected(VerifyError::expired)},
           Row{from, ""},
           Row{from - 60, ""},
           Row{from - 61, expected(VerifyError::not_yet_valid)},
       }) {
    CAPTURE(row.at - now());
    CHECK(outcome(leaf, trusting(root()), row.at) == row.outcome);
  }
}

TEST_CASE("T9 T10 an authority's dates count too") {
  const Identity old = make_authority(kTrustDomain, with([](Knobs &k) {
                                        k.not_before = now() - 1000;
                                        k.not_after = now() - 1;
                                      }));
  CHECK(outcome(issue(old, kId), trusting(old)) == expected(VerifyError::expired));
  const Identity early =
      make_intermediate(root(), kTrustDomain, with([](Knobs &k) { k.not_before = now() + 61; }));
  CHECK(outcome(issue(early, kId), trusting(root())) == expected(VerifyError::not_yet_valid));
}

TEST_CASE("T11 a leaf that signed itself is not trusted, not even when the bundle holds it") {
  const Identity leaf = make_self_signed(kId);
  CHECK(outcome(leaf, trusting(root())) == expected(VerifyError::untrusted));
  CHECK(outcome(leaf, trusting(leaf)) == expected(VerifyError::untrusted));
}

TEST_CASE("a leaf that is in the bundle is no authority for itself") {
  const Identity leaf = issue(root(), kId);
  CHECK(outcome(leaf, trusting(leaf)) == expected(VerifyError::untrusted));
}

TEST_CASE("T12 T13 T14 an intermediate is held to what it is allowed") {
  struct Row {
    const char *name;
    Knobs knobs;
    std::string outcome;
  };
  const std::string refused = expected(VerifyError::intermediate);
  for (const Row &row : {
           Row{"good", {}, ""},
           Row{"T12 cA false", with([](Knobs &k) { k.basic_constraints = "critical,CA:FALSE"; }),
               refused},
           Row{"T12 a leaf as an authority", with([](Knobs &k) {
                 k.basic_constraints = "critical,CA:FALSE";
                 k.key_usage = "critical,digitalSignature";
               }),
               refused},
           Row{"T12 no basic constraints", with([](Knobs &k) { k.basic_constraints = ""; }),
               refused},
           Row{"no keyCertSign", with([](Knobs &k) { k.key_usage = "critical,cRLSign"; }), refused},
           Row{"no keyUsage", with([](Knobs &k) { k.key_usage = ""; }), refused},
           Row{"only for code signing",
               with([](Knobs &k) { k.extended_key_usage = "codeSigning"; }), refused},
           Row{"only for servers", with([](Knobs &k) { k.extended_key_usage = "serverAuth"; }),
               refused},
           Row{"for both roles",
               with([](Knobs &k) { k.extended_key_usage = "serverAuth,clientAuth"; }), ""},
           Row{"T14 permits its own trust domain",
               with([](Knobs &k) { k.name_constraints = "critical,permitted;URI:example.org"; }),
               ""},
           Row{"T14 permits another trust domain",
               with([](Knobs &k) { k.name_constraints = "critical,permitted;URI:other.org"; }),
               refused},
           Row{"T14 permits subdomains only",
               with([](Knobs &k) { k.name_constraints = "critical,permitted;URI:.example.org"; }),
               refused},
           Row{"T14 excludes the trust domain",
               with([](Knobs &k) { k.name_constraints = "critical,excluded;URI:example.org"; }),
               refused},
           Row{"T14 permits DNS names, of which there are none",
               with([](Knobs &k) { k.name_constraints = "critical,permitted;DNS:example.org"; }),
               ""},
           Row{"an unknown critical extension",
               with([](Knobs &k) { k.unknown_critical_extension = true; }), refused},
           Row{"its ID has a path", with([](Knobs &k) { k.uris = {"spiffe://example.org/ca"}; }),
               refused},
           Row{"its ID is of another trust domain",
               with([](Knobs &k) { k.uris = {"spiffe://other.org"}; }), refused},
           Row{"it has no ID", with([](Knobs &k) { k.uris = std::vector<std::string>(); }), ""},
           Row{"it has a URI that is no SPIFFE ID",
               with([](Knobs &k) { k.uris = {"https://pki.example.org"}; }), ""},
       }) {
    CAPTURE(row.name);
    const Identity intermediate = make_intermediate(root(), kTrustDomain, row.knobs);
    CHECK(outcome(issue(intermediate, kId), trusting(root())) == row.outcome);
  }
}

TEST_CASE("T13 a path longer than pathLen allows is refused") {
  const Identity narrow = make_authority(
      kTrustDomain, with([](Knobs &k) { k.basic_constraints = "critical,CA:TRUE,pathlen:0"; }));
  CHECK(outcome(issue(narrow, kId), trusting(narrow)) == "");
  const Identity intermediate = make_intermediate(narrow, kTrustDomain);
  CHECK(outcome(issue(intermediate, kId), trusting(narrow)) == expected(VerifyError::intermediate));
}

TEST_CASE("T15 weak or unknown keys and signatures are refused") {
  check_rows({
      {"RSA-1024", with([](Knobs &k) { k.key = KeyKind::rsa1024; }), VerifyError::weak},
      {"P-224", with([](Knobs &k) { k.key = KeyKind::p224; }), VerifyError::weak},
      {"P-521", with([](Knobs &k) { k.key = KeyKind::p521; }), VerifyError::weak},
      {"secp256k1", with([](Knobs &k) { k.key = KeyKind::secp256k1; }), VerifyError::weak},
      {"Ed25519", with([](Knobs &k) { k.key = KeyKind::ed25519; }), VerifyError::weak},
      {"RSA-PSS key", with([](Knobs &k) { k.key = KeyKind::rsa_pss2048; }), VerifyError::weak},
      {"SHA-1", with([](Knobs &k) { k.digest = "SHA1"; }), VerifyError::weak},
      {"SHA-224", with([](Knobs &k) { k.digest = "SHA224"; }), VerifyError::weak},
      {"bad signature", with([](Knobs &k) { k.corrupt_signature = true; }), VerifyError::untrusted},
  });
}

TEST_CASE("T15 weak or unknown keys and signatures of authorities are refused") {
  for (const KeyKind kind : {KeyKind::rsa1024, KeyKind::p224, KeyKind::p521, KeyKind::ed25519}) {
    const Knobs knobs = with([kind](Knobs &k) { k.key = kind; });
    const Identity authority = make_authority(kTrustDomain, knobs);
    CHECK(outcome(issue(authority, kId), trusting(authority)) == expected(VerifyError::weak));
    const Identity intermediate = make_intermediate(root(), kTrustDomain, knobs);
    CHECK(outcome(issue(intermediate, kId), trusting(root())) == expected(VerifyError::weak));
  }
  const Identity sha1 =
      make_intermediate(root(), kTrustDomain, with([](Knobs &k) { k.digest = "SHA1"; }));
  CHECK(outcome(issue(sha1, kId), trusting(root())) == expected(VerifyError::weak));
  const Identity forged =
      make_intermediate(root(), kTrustDomain, with([](Knobs &k) { k.corrupt_signature = true; }));
  CHECK(outcome(issue(forged, kId), trusting(root())) == expected(VerifyError::untrusted));
}

TEST_CASE("T15 an authority's own signature does not matter, the bundle vouches for it") {
  const Identity sha1 = make_authority(kTrustDomain, with([](Knobs &k) { k.digest = "SHA1"; }));
  CHECK(outcome(issue(sha1, kId), trusting(sha1)) == "");
}

TEST_CASE("T15 no damaged byte of a leaf crashes or is accepted") {
  const Identity leaf = issue(root(), kId);
  const BundleSet bundles = trusting(root());
  unsigned char *encoded = nullptr;
  const int length = i2d_X509(leaf.certificate.get(), &encoded);
  REQUIRE(length > 0);
  const std::vector<unsigned char> der(encoded, encoded + length);
  OPENSSL_free(encoded);
  for (std::size_t position = 0; position < der.size(); ++position) {
    for (const int flip : {0x01, 0x20, 0x80, 0xff}) {
      std::vector<unsigned char> damaged = der;
      damaged[position] = static_cast<unsigned char>(damaged[position] ^ flip);
      const identity::ErrorMark mark;
      const identity::X509Ptr certificate = identity::certificate_from_der(damaged);
      if (!certificate) continue;
      const auto id =
          identity::verify_x509_svid(testing::stack_of({certificate.get()}).get(), bundles, now());
      CAPTURE(position);
      CAPTURE(flip);
      CHECK_FALSE(id);
    }
  }
}

TEST_CASE("T16 a chain's length and size are limited before anything else") {
  const BundleSet bundles = trusting(root());
  const Identity leaf = issue(root(), kId);

  Identity deep = make_intermediate(root(), kTrustDomain);
  while (deep.intermediates.size() < 18) deep = make_intermediate(deep, kTrustDomain);
  const Identity deep_leaf = issue(deep, kId);
  REQUIRE(deep_leaf.intermediates.size() + 1 == 20);
  CHECK(outcome(deep_leaf, bundles) == expected(VerifyError::chain_too_long));

  const Identity heavy =
      make_intermediate(root(), kTrustDomain, with([](Knobs &k) { k.padding = 65536; }));
  CHECK(outcome(issue(heavy, kId), bundles) == expected(VerifyError::chain_too_long));

  Identity longest = make_intermediate(root(), kTrustDomain);
  while (longest.intermediates.size() < 6) longest = make_intermediate(longest, kTrustDomain);
  const Identity longest_leaf = issue(longest, kId);
  REQUIRE(longest_leaf.intermediates.size() + 1 == 8);
  CHECK(outcome(longest_leaf, bundles) == "");
}

TEST_CASE("T16 duplicates and any order of intermediates do no harm") {
  const BundleSet bundles = trusting(root());
  const Identity upper = make_intermediate(root(), kTrustDomain);
  const Identity lower = make_intermediate(upper, kTrustDomain);
  const Identity other = make_intermediate(make_authority("other.org"), "other.org");
  const Identity leaf = issue(lower, kId);
  const X509 *l = leaf.certificate.get();
  const X509 *a = lower.certificate.get();
  const X509 *b = upper.certificate.get();
  const X509 *r = root().certificate.get();
  const X509 *x = other.certificate.get();
  CHECK(outcome(testing::stack_of({l, a, b}).get(), bundles) == "");
  CHECK(outcome(testing::stack_of({l, b, a}).get(), bundles) == "");
  CHECK(outcome(testing::stack_of({l, a, a, b, b}).get(), bundles) == "");
  CHECK(outcome(testing::stack_of({l, l, b, l, a}).get(), bundles) == "");
  CHECK(outcome(testing::stack_of({l, r, b, x, a}).get(), bundles) == "");
  CHECK(outcome(testing::stack_of({l, b}).get(), bundles) == expected(VerifyError::untrusted));
  CHECK(outcome(testing::stack_of({b, l, a}).get(), bundles) == expected(VerifyError::root_path));
}

TEST_CASE("T17 an authority cannot sign for another trust domain") {
  const Identity a = make_authority("a.org"), b = make_authority("b.org");
  const BundleSet only_a = bundles_of({{"a.org", a.certificate.get()}});
  const BundleSet both =
      bundles_of({{"a.org", a.certificate.get()}, {"b.org", b.certificate.get()}});
  const Identity stray = issue(a, "spiffe://b.org/web");
  CHECK(outcome(stray, only_a) == expected(VerifyError::unknown_trust_domain));
  CHECK(outcome(stray, both) == expected(VerifyError::untrusted));
}

TEST_CASE("T18 with two bundles loaded each chain uses its own only") {
  const Identity a = make_authority("a.org"), b = make_authority("b.org");
  const BundleSet both =
      bundles_of({{"a.org", a.certificate.get()}, {"b.org", b.certificate.get()}});
  CHECK(outcome(issue(a, "spiffe://a.org/web"), both) == "");
  CHECK(outcome(issue(b, "spiffe://b.org/web"), both) == "");
  CHECK(outcome(issue(b, "spiffe://a.org/web"), both) == expected(VerifyError::untrusted));
  // An intermediate of a under b: the path exists, but only from b's bundle.
  const Identity crossed = make_intermediate(b, "a.org");
  CHECK(outcome(issue(crossed, "spiffe://a.org/web"), both) == expected(VerifyError::untrusted));
  // The bundle of a must not supply a missing intermediate to b.
  const Identity lower = make_intermediate(b, "b.org");
  const BundleSet misplaced =
      bundles_of({{"a.org", lower.certificate.get()}, {"b.org", b.certificate.get()}});
  const Identity leaf = issue(lower, "spiffe://b.org/web");
  CHECK(outcome(testing::stack_of({leaf.certificate.get()}).get(), misplaced) ==
        expected(VerifyError::untrusted));
}

TEST_CASE("T19 an empty bundle rejects everything of its trust domain") {
  BundleSet bundles;
  const Identity leaf = issue(root(), kId);
  CHECK(outcome(leaf, bundles) == expected(VerifyError::unknown_trust_domain));
  bundles[kTrustDomain];
  CHECK(outcome(leaf, bundles) == expected(VerifyError::untrusted));
}

TEST_CASE("T23 a URI SAN that only begins like a good one is refused") {
  using Uris = std::vector<std::string>;
  const std::string at = "spiffe://example.org/";
  const auto uri = [](std::string text) {
    return with([&](Knobs &k) { k.uris = Uris{std::move(text)}; });
  };
  check_rows({
      {"embedded NUL", uri(std::string("spiffe://example.org/ns/web\0.evil", 33)),
       VerifyError::not_a_spiffe_id},
      {"NUL at the end", uri(std::string("spiffe://example.org/ns/web\0", 28)),
       VerifyError::not_a_spiffe_id},
      {"NUL in the trust domain", uri(std::string("spiffe://example.org\0.evil/ns", 29)),
       VerifyError::not_a_spiffe_id},
      {"not IA5: Latin-1", uri("spiffe://example.org/caf\xe9"), VerifyError::not_a_spiffe_id},
      {"not IA5: UTF-8", uri("spiffe://example.org/caf\xc3\xa9"), VerifyError::not_a_spiffe_id},
      {"2049 bytes", uri(at + std::string(2049 - at.size(), 'a')), VerifyError::not_a_spiffe_id},
      {"newline", uri("spiffe://example.org/a\nspiffe://example.org/b"),
       VerifyError::not_a_spiffe_id},
  });
  const Knobs longest = uri(at + std::string(2048 - at.size(), 'a'));
  CHECK(outcome(issue(root(), kId, longest), trusting(root())) == "");
}

TEST_CASE("T24 what is no SPIFFE ID is none in a certificate either") {
  for (const char *uri :
       {"spiffe://example.org/..", "spiffe://example.org//a", "spiffe://example.org/a/",
        "spiffe://example.org/%2e", "spiffe://example.org/a%00", "spiffe://example.org/a?b",
        "spiffe://example.org/a#b", "spiffe://example.org:8080/a", "spiffe://user@example.org/a",
        "spiffe://Example.org/a", "spiffe:///a"}) {
    check_rows({{uri, with([uri](Knobs &k) { k.uris = {uri}; }), VerifyError::not_a_spiffe_id}});
  }
}

TEST_CASE("no certificate at all is its own error") {
  CHECK(outcome(nullptr, trusting(root())) == expected(VerifyError::no_certificate));
  CHECK(outcome(testing::stack_of({}).get(), trusting(root())) ==
        expected(VerifyError::no_certificate));
  CHECK_FALSE(identity::spiffe_id_of(nullptr));
}

TEST_CASE("malformed leaves are refused") {
  check_rows({
      {"an unknown critical extension", with([](Knobs &k) { k.unknown_critical_extension = true; }),
       VerifyError::malformed},
      {"an empty subject and a SAN not critical", with([](Knobs &k) { k.san_critical = false; }),
       VerifyError::malformed},
      {"version 1", with([](Knobs &k) { k.version = 1; }), VerifyError::malformed},
  });
}

TEST_CASE("any certificate of the bundle ends the path, root or not") {
  const Identity intermediate = make_intermediate(root(), kTrustDomain);
  const Identity leaf = issue(intermediate, kId);
  CHECK(outcome(testing::stack_of({leaf.certificate.get()}).get(), trusting(intermediate)) == "");
}

TEST_CASE("an authority of the bundle that may not sign signs nothing") {
  for (const Knobs &knobs :
       {with([](Knobs &k) { k.basic_constraints = "critical,CA:FALSE"; }),
        with([](Knobs &k) { k.basic_constraints = ""; }), with([](Knobs &k) { k.key_usage = ""; }),
        with([](Knobs &k) { k.uris = {"spiffe://other.org"}; })}) {
    const Identity authority = make_authority(kTrustDomain, knobs);
    CHECK(outcome(issue(authority, kId), trusting(authority)) != "");
  }
}

TEST_CASE("after a rotation, authorities of one name without key identifiers are told apart") {
  const Knobs plain = with([](Knobs &k) { k.key_identifiers = false; });
  const Identity old = make_authority(kTrustDomain, plain);
  const Identity fresh = make_authority(kTrustDomain, plain);
  const Identity stranger = make_authority(kTrustDomain, plain);
  for (const bool old_first : {true, false}) {
    BundleSet bundles;
    bundles[kTrustDomain] = old_first ? bundle_of({old.certificate.get(), fresh.certificate.get()})
                                      : bundle_of({fresh.certificate.get(), old.certificate.get()});
    CHECK(outcome(issue(old, kId, plain), bundles) == "");
    CHECK(outcome(issue(fresh, kId, plain), bundles) == "");
    CHECK(outcome(issue(stranger, kId, plain), bundles) == expected(VerifyError::untrusted));
  }
}

TEST_CASE("an expired authority beside its renewal does not stand in the way") {
  const Identity fresh = make_authority(kTrustDomain);
  const Identity old = make_authority(kTrustDomain, with([](Knobs &k) {
                                        k.not_before = now() - 2000;
                                        k.not_after = now() - 1000;
                                      }));
  BundleSet bundles;
  bundles[kTrustDomain] = bundle_of({old.certificate.get(), fresh.certificate.get()});
  CHECK(outcome(issue(fresh, kId), bundles) == "");
  CHECK(outcome(issue(old, kId), bundles) == expected(VerifyError::expired));
}

TEST_CASE("a failure says which certificate, without control characters") {
  const Identity leaf = issue(root(), kId, with([](Knobs &k) {
                                k.subject = "web\nforged log line";
                                k.not_after = now() - 1;
                              }));
  const auto id = identity::verify_x509_svid(stack_of(leaf).get(), trusting(root()), now());
  REQUIRE_FALSE(id);
  CHECK(id.error().detail.find("web") != std::string::npos);
  CHECK(id.error().detail.find(identity::time_text(now() - 1)) != std::string::npos);
  CHECK(std::all_of(id.error().detail.begin(), id.error().detail.end(),
                    [](char c) { return c >= 0x20 && c < 0x7f; }));
}

TEST_CASE("a leaf's SPIFFE ID can be read without judging it") {
  const Identity leaf = make_self_signed(kId, with([](Knobs &k) { k.key_usage = ""; }));
  const auto id = identity::spiffe_id_of(leaf.certificate.get());
  REQUIRE(id);
  CHECK(id->uri() == kId);
}
