#include "identity/authority.h"

#include <doctest/doctest.h>
#include <openssl/x509v3.h>

#include "certificates.h"
#include "identity/certificate.h"
#include "identity/extensions.h"
#include "identity/svid.h"
#include "identity/verify.h"

using namespace inlay;
using namespace inlay::testing;
using identity::Authority;
using identity::SpiffeId;

namespace {

Authority authority() { return std::move(*Authority::create("example.org", now())); }

std::string refusal(const tl::expected<identity::IssuedSvid, identity::AuthorityError> &issued) {
  if (issued) return "";
  CHECK(issued.error().message.find('\n') == std::string::npos);
  return issued.error().message;
}

}  // namespace

TEST_CASE("a new authority is a P-256 root with the trust domain's own ID, good for a year") {
  const Authority made = authority();
  CHECK(made.trust_domain() == "example.org");
  CHECK(made.not_after() == now() + 365 * 86400);
  const auto certificates = identity::certificates_from_pem(made.certificate_pem());
  REQUIRE(certificates);
  REQUIRE(certificates->size() == 1);
  const X509 *const root = certificates->front().get();
  CHECK(X509_check_ca(identity::mutable_view(root)) == 1);
  CHECK(identity::uri_names(root).value() == std::vector<std::string>{"spiffe://example.org"});
  CHECK(identity::key_usage(root).value() == (X509v3_KU_KEY_CERT_SIGN | X509v3_KU_CRL_SIGN));
  CHECK(identity::is_critical(root, NID_key_usage));
  CHECK(identity::is_critical(root, NID_basic_constraints));
  CHECK(X509_get_pathlen(identity::mutable_view(root)) == 0);
  CHECK(EVP_PKEY_get_bits(X509_get0_pubkey(root)) == 256);
  CHECK(X509_self_signed(identity::mutable_view(root), 1) == 1);
  CHECK(identity::key_weakness(root).empty());
  CHECK(identity::signature_weakness(root).empty());
}

TEST_CASE("an issued SVID is what peers accept, and nothing more") {
  const Authority made = authority();
  const SpiffeId id = *SpiffeId::parse("spiffe://example.org/ns/web");
  const auto issued = made.issue(id, now(), 3600);
  REQUIRE(issued);
  CHECK(issued->not_after == now() + 3600);
  const auto svid = identity::parse_svid(issued->chain_pem, issued->key_pem);
  REQUIRE(svid);
  CHECK(svid->id == id);
  CHECK(svid->not_before == now() - 60);
  CHECK(svid->not_after == now() + 3600);
  REQUIRE(svid->chain.size() == 1);
  const X509 *const leaf = svid->chain.front().get();
  CHECK(X509_NAME_entry_count(X509_get_subject_name(leaf)) == 0);
  CHECK(identity::is_critical(leaf, NID_subject_alt_name));
  CHECK(identity::key_usage(leaf).value() == X509v3_KU_DIGITAL_SIGNATURE);
  CHECK(identity::extended_key_usage(leaf).value() == (XKU_SSL_CLIENT | XKU_SSL_SERVER));
  CHECK(EVP_PKEY_is_a(svid->key.get(), "EC") == 1);

  identity::BundleSet bundles;
  bundles["example.org"] = std::move(*identity::parse_bundle(made.certificate_pem()));
  CHECK(identity::verify_x509_svid(stack_of({leaf}).get(), bundles, now()));
  CHECK_FALSE(identity::verify_x509_svid(stack_of({leaf}).get(), bundles, now() + 3601));
}

TEST_CASE("no two SVIDs share a key or a serial number") {
  const Authority made = authority();
  const SpiffeId id = *SpiffeId::parse("spiffe://example.org/web");
  const auto first = made.issue(id, now(), 60), second = made.issue(id, now(), 60);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->key_pem != second->key_pem);
  const auto a = identity::certificates_from_pem(first->chain_pem);
  const auto b = identity::certificates_from_pem(second->chain_pem);
  CHECK(ASN1_INTEGER_cmp(X509_get0_serialNumber((*a)[0].get()),
                         X509_get0_serialNumber((*b)[0].get())) != 0);
}

TEST_CASE(
    "T17 T24 an authority issues for workloads of its own trust domain, within its own time") {
  const Authority made = authority();
  const auto issue_for = [&](const char *uri, std::time_t lifetime) {
    return refusal(made.issue(*SpiffeId::parse(uri), now(), lifetime));
  };
  CHECK(issue_for("spiffe://example.org/web", 365 * 86400) == "");
  CHECK(issue_for("spiffe://other.org/web", 60).find("not of this authority's trust domain") !=
        std::string::npos);
  CHECK(issue_for("spiffe://example.org", 60).find("add the workload's path") != std::string::npos);
  CHECK(issue_for("spiffe://example.org/web", 365 * 86400 + 1).find("outlive the authority") !=
        std::string::npos);
  CHECK(issue_for("spiffe://example.org/web", 0) != "");
  CHECK(issue_for("spiffe://example.org/web", -1) != "");
  CHECK(refusal(made.issue(*SpiffeId::parse("spiffe://example.org/web"), now() + 400 * 86400, 60))
            .find("outlive") != std::string::npos);
}

TEST_CASE("T24 an authority needs a valid trust domain") {
  for (const char *bad : {"", "Example.org", "example.org/", "example.org/a",
                          "spiffe://example.org", "example.org:80", "a b", "a,URI:b"}) {
    CAPTURE(bad);
    CHECK_FALSE(Authority::create(bad, now()));
  }
  CHECK(Authority::create(std::string(255, 'a'), now()));
}

TEST_CASE("an authority read back issues as before; one that cannot is refused") {
  const Authority made = authority();
  const auto again = Authority::parse(made.certificate_pem(), made.key_pem());
  REQUIRE(again);
  CHECK(again->trust_domain() == "example.org");
  CHECK(again->not_after() == made.not_after());
  CHECK(again->issue(*SpiffeId::parse("spiffe://example.org/web"), now(), 60));

  const Authority other = authority();
  CHECK_FALSE(Authority::parse(made.certificate_pem(), other.key_pem()));
  CHECK_FALSE(Authority::parse(made.certificate_pem(), ""));
  CHECK_FALSE(Authority::parse("", made.key_pem()));
  CHECK_FALSE(Authority::parse(made.certificate_pem() + other.certificate_pem(), made.key_pem()));
  const Identity leaf = issue(make_authority("example.org"), "spiffe://example.org/web");
  CHECK_FALSE(Authority::parse(to_pem(leaf.certificate.get()), to_pem(leaf.key.get())));
}

TEST_CASE("an authority whose SVIDs peers would refuse issues none") {
  Knobs knobs;
  knobs.key_usage = "critical,digitalSignature";
  const Identity unfit = make_authority("example.org", knobs);
  const auto parsed = Authority::parse(to_pem(unfit.certificate.get()), to_pem(unfit.key.get()));
  REQUIRE(parsed);
  CHECK(refusal(parsed->issue(*SpiffeId::parse("spiffe://example.org/web"), now(), 60))
            .find("peers would refuse") != std::string::npos);
}
