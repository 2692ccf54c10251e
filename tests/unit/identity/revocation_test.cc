// T21, T22: what a CRL says, to new handshakes and to open sessions.
#include <doctest/doctest.h>
#include <openssl/x509v3.h>

#include "certificates.h"
#include "identity/certificate.h"
#include "identity/crl.h"
#include "identity/verify.h"

using namespace inlay;
using namespace inlay::identity;
using inlay::testing::bundle_of;
using inlay::testing::issue;
using inlay::testing::make_authority;
using inlay::testing::make_intermediate;
using inlay::testing::stack_of;

namespace {

constexpr char kTrustDomain[] = "example.org";
constexpr char kId[] = "spiffe://example.org/app";

// A CRL of `issuer` that names `revoked`, good until `next_update`.
Crl make_crl(const testing::Identity &issuer, const X509 *revoked, std::time_t next_update) {
  X509CrlPtr crl(X509_CRL_new_ex(library_context(), nullptr));
  X509_CRL_set_version(crl.get(), 1);
  X509_CRL_set_issuer_name(crl.get(), X509_get_subject_name(issuer.certificate.get()));
  ASN1_TIME *time = ASN1_TIME_set(nullptr, next_update - 7200);
  X509_CRL_set1_lastUpdate(crl.get(), time);
  ASN1_TIME_set(time, next_update);
  X509_CRL_set1_nextUpdate(crl.get(), time);
  if (revoked != nullptr) {
    X509_REVOKED *entry = X509_REVOKED_new();
    X509_REVOKED_set_serialNumber(entry,
                                  const_cast<ASN1_INTEGER *>(X509_get0_serialNumber(revoked)));
    X509_REVOKED_set_revocationDate(entry, time);
    X509_CRL_add0_revoked(crl.get(), entry);
  }
  ASN1_TIME_free(time);
  X509_CRL_sort(crl.get());
  REQUIRE(X509_CRL_sign(crl.get(), issuer.key.get(), EVP_sha256()) > 0);
  unsigned char *der = nullptr;
  const int length = i2d_X509_CRL(crl.get(), &der);
  auto parsed = parse_crls({reinterpret_cast<const char *>(der), static_cast<std::size_t>(length)});
  OPENSSL_free(der);
  REQUIRE(parsed);
  return std::move(parsed->front());
}

testing::Knobs signs_crls() {
  testing::Knobs knobs;
  knobs.key_usage = "critical,keyCertSign,cRLSign";
  return knobs;
}

struct Setup {
  testing::Identity authority = make_authority(kTrustDomain, signs_crls());
  testing::Identity app = issue(authority, kId);
  testing::Identity other = issue(authority, "spiffe://example.org/other");
  std::time_t now = std::time(nullptr);

  BundleSet bundles() const {
    BundleSet set;
    set.emplace(kTrustDomain, bundle_of({authority.certificate.get()}));
    return set;
  }
  BundleSet with(const Crl &crl, bool accept_stale = false) const {
    BundleSet set = bundles();
    REQUIRE(add_crl(crl, set, accept_stale));
    return set;
  }
};

std::optional<VerifyError> refusal(const testing::Identity &identity, const BundleSet &bundles,
                                   std::time_t now) {
  const auto chain = stack_of(identity);
  auto verified = verify_x509_svid(chain.get(), bundles, now);
  return verified ? std::nullopt : std::optional(verified.error().error);
}

TEST_CASE("T21 a certificate that a CRL names is refused, others of its issuer are not") {
  const Setup setup;
  const auto bundles =
      setup.with(make_crl(setup.authority, setup.app.certificate.get(), setup.now + 3600));
  CHECK(refusal(setup.app, bundles, setup.now) == VerifyError::revoked);
  CHECK_FALSE(refusal(setup.other, bundles, setup.now));
}

TEST_CASE("T21 a revoked intermediate takes all that it issued with it") {
  const Setup setup;
  const auto intermediate = make_intermediate(setup.authority, kTrustDomain);
  const auto leaf = issue(intermediate, kId);
  CHECK_FALSE(refusal(leaf, setup.bundles(), setup.now));
  const auto bundles =
      setup.with(make_crl(setup.authority, intermediate.certificate.get(), setup.now + 3600));
  CHECK(refusal(leaf, bundles, setup.now) == VerifyError::revoked);
}

TEST_CASE("T22 a stale CRL refuses what its issuer signed, unless it is to be accepted") {
  const Setup setup;
  const Crl stale = make_crl(setup.authority, setup.other.certificate.get(), setup.now - 1);
  CHECK(refusal(setup.app, setup.with(stale), setup.now) == VerifyError::crl_stale);
  CHECK_FALSE(refusal(setup.app, setup.with(stale, true), setup.now));
  // What it names is revoked all the same.
  CHECK(refusal(setup.other, setup.with(stale, true), setup.now) == VerifyError::revoked);
}

TEST_CASE("of several CRLs of one authority the newest counts, in whatever order they come") {
  const Setup setup;
  const Crl old = make_crl(setup.authority, setup.other.certificate.get(), setup.now - 1);
  const Crl fresh = make_crl(setup.authority, setup.app.certificate.get(), setup.now + 3600);
  for (const auto &[first, second] : {std::pair(&old, &fresh), std::pair(&fresh, &old)}) {
    BundleSet bundles = setup.with(*first);
    REQUIRE(add_crl(*second, bundles, false));
    CHECK(refusal(setup.app, bundles, setup.now) == VerifyError::revoked);
    CHECK_FALSE(refusal(setup.other, bundles, setup.now));
  }
}

TEST_CASE("the CRL of one authority does not stand for another's of the same name") {
  const Setup setup;
  const auto successor = make_authority(kTrustDomain, signs_crls());
  BundleSet bundles = setup.with(make_crl(setup.authority, setup.app.certificate.get(), setup.now + 3600));
  Bundle second = bundle_of({successor.certificate.get()});
  bundles[kTrustDomain].authorities.push_back(std::move(second.authorities.front()));
  REQUIRE(add_crl(make_crl(successor, nullptr, setup.now + 7200), bundles, false));
  CHECK(refusal(setup.app, bundles, setup.now) == VerifyError::revoked);
}

TEST_CASE("a CRL that no authority of the bundle signed is not taken in") {
  const Setup setup;
  const auto impostor = make_authority(kTrustDomain, signs_crls());  // of the same name
  BundleSet bundles = setup.bundles();
  CHECK_FALSE(
      add_crl(make_crl(impostor, setup.app.certificate.get(), setup.now + 3600), bundles, false));
  CHECK_FALSE(refusal(setup.app, bundles, setup.now));
}

TEST_CASE("T21 the CRL of an intermediate counts for what that very intermediate has signed") {
  const Setup setup;
  testing::Knobs knobs = signs_crls();
  const auto intermediate = make_intermediate(setup.authority, kTrustDomain, knobs);
  const auto twin = make_intermediate(setup.authority, kTrustDomain, knobs);  // of the same name
  const auto leaf = issue(intermediate, kId);
  const auto with = [&](const Crl &crl, bool accept_stale) {
    BundleSet set = setup.bundles();
    CHECK_FALSE(add_crl(crl, set, accept_stale));
    add_crl_of_intermediate(crl, set, accept_stale);
    return set;
  };
  const X509 *const named = leaf.certificate.get();
  const auto good = with(make_crl(intermediate, named, setup.now + 3600), false);
  CHECK(refusal(leaf, good, setup.now) == VerifyError::revoked);
  CHECK_FALSE(refusal(issue(intermediate, kId), good, setup.now));
  // Neither what another has signed, nor its being stale, says anything.
  CHECK_FALSE(refusal(leaf, with(make_crl(twin, named, setup.now + 3600), false), setup.now));
  CHECK_FALSE(refusal(leaf, with(make_crl(twin, nullptr, setup.now - 1), false), setup.now));

  const Crl stale = make_crl(intermediate, named, setup.now - 1);
  CHECK(refusal(issue(intermediate, kId), with(stale, false), setup.now) ==
        VerifyError::crl_stale);
  CHECK_FALSE(refusal(issue(intermediate, kId), with(stale, true), setup.now));
  CHECK(refusal(leaf, with(stale, true), setup.now) == VerifyError::revoked);

  // The newest list says all there is to say.
  BundleSet both = with(stale, false);
  add_crl_of_intermediate(make_crl(intermediate, nullptr, setup.now + 3600), both, false);
  CHECK_FALSE(refusal(leaf, both, setup.now));

  // An open session, which has no chain any more.
  PathRecord record;
  REQUIRE(verify_x509_svid(stack_of(leaf).get(), setup.bundles(), setup.now, &record));
  CHECK(judge_again(record, good.at(kTrustDomain)) == VerifyError::revoked);
}

TEST_CASE("T20 T21 what an open session's peer was verified by is judged again without its chain") {
  const Setup setup;
  const auto chain = stack_of(setup.app);
  PathRecord record;
  REQUIRE(verify_x509_svid(chain.get(), setup.bundles(), setup.now, &record));
  CHECK_FALSE(judge_again(record, setup.bundles().at(kTrustDomain)));

  const auto revoked =
      setup.with(make_crl(setup.authority, setup.app.certificate.get(), setup.now + 3600));
  CHECK(judge_again(record, revoked.at(kTrustDomain)) == VerifyError::revoked);
  const auto another =
      setup.with(make_crl(setup.authority, setup.other.certificate.get(), setup.now - 1));
  CHECK_FALSE(judge_again(record, another.at(kTrustDomain)));  // nor does a stale list cut it

  const auto successor = make_authority(kTrustDomain);
  CHECK(judge_again(record, bundle_of({successor.certificate.get()})) == VerifyError::untrusted);
  CHECK_FALSE(judge_again(
      record, bundle_of({successor.certificate.get(), setup.authority.certificate.get()})));
}

}  // namespace
