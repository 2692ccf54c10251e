#include "identity/ca/signer.h"

#include <doctest/doctest.h>
#include <openssl/x509v3.h>

#include <algorithm>

#include "certificates.h"
#include "identity/certificate.h"
#include "identity/crl.h"
#include "identity/csr.h"
#include "identity/extensions.h"
#include "identity/jwt_svid.h"
#include "identity/verify.h"
#include "tests/unit/tools/temporary_folder.h"

using namespace inlay::identity;
using namespace inlay::identity::ca;
using inlay::testing::KeyKind;
namespace certificates = inlay::testing;

namespace {

constexpr std::time_t kDay = 86400;

// An authority's rows, and the time, in a test's hands.
struct Life {
  Life() { CHECK(maintain(rows, seal, settings, now)); }
  Signer signer() const {
    auto made = Signer::open(rows, generation, seal, settings.trust_domain);
    REQUIRE_MESSAGE(made, (made ? "" : made.error()));
    return std::move(*made);
  }
  std::size_t count(AuthorityKind kind, AuthorityState state) const {
    return static_cast<std::size_t>(std::count_if(rows.begin(), rows.end(), [&](const auto &row) {
      return row.kind == kind && row.state == state;
    }));
  }
  void maintained() { REQUIRE(maintain(rows, seal, settings, now)); }

  TemporaryFolder folder;
  Seal seal = std::move(*Seal::open(folder.path() + "/seal.key", true));
  RotationSettings settings{.trust_domain = "example.org"};
  AuthorityRows rows;
  std::time_t now = certificates::now();
  std::uint64_t generation = 7;
};

SpiffeId id(const std::string &path) { return *SpiffeId::parse("spiffe://example.org/" + path); }

X509StackPtr chain_of(const std::vector<std::string> &ders) {
  X509StackPtr chain(sk_X509_new_null());
  for (const std::string &der : ders) {
    X509Ptr certificate =
        certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
    REQUIRE(certificate);
    sk_X509_push(chain.get(), certificate.release());
  }
  return chain;
}

std::optional<VerifyError> verdict(const std::vector<std::string> &chain, const Signer &peer,
                                   std::time_t now, std::span<const std::string> crls = {}) {
  const auto verified = verify_x509_svid(chain_of(chain).get(), *peer.bundle_set(crls), now);
  return verified ? std::nullopt : std::optional(verified.error().error);
}

SignedX509 sign(const Signer &signer, std::time_t now, const std::string &path = "web") {
  const PkeyPtr key = certificates::make_key(KeyKind::p256);
  auto made = signer.sign(id(path), key.get(), now, 3600);
  REQUIRE_MESSAGE(made, (made ? "" : made.error()));
  return std::move(*made);
}

template <typename T>
bool refused(const Stored<T> &outcome, std::string_view part) {
  if (outcome) return false;
  INFO(outcome.error().message);
  CHECK(outcome.error().message.find('\n') == std::string::npos);
  return outcome.error().message.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("the first start makes a root, an intermediate and a JWT key, the next nothing more") {
  Life life;
  CHECK(life.rows.size() == 3);
  CHECK_FALSE(due(life.rows, life.settings, life.now));
  const AuthorityRows before = life.rows;
  life.maintained();
  CHECK(life.rows == before);
  const Signer signer = life.signer();
  const auto made = sign(signer, life.now);
  REQUIRE(made.chain.size() == 2);
  const X509StackPtr chain = chain_of(made.chain);
  CHECK(X509_get_pathlen(sk_X509_value(chain.get(), 1)) == 0);
  CHECK(made.issuance.serial == serial_text(sk_X509_value(chain.get(), 0)));
  CHECK(made.issuance.spiffe_id == "spiffe://example.org/web");
  CHECK(made.issuance.not_after == life.now + 3600);
  CHECK_FALSE(verdict(made.chain, signer, life.now));
  CHECK(verdict(made.chain, signer, life.now + 3601) == VerifyError::expired);

  const auto bundle = parse_trust_domain_bundle(bundle_document(signer.bundle()));
  REQUIRE(bundle);
  CHECK(bundle->x509_authorities.size() == 1);
  CHECK(bundle->jwt_authorities.size() == 1);
  CHECK(bundle->sequence == 7);
}

TEST_CASE("T70: of a CSR that asks for more only the key is taken") {
  const Life life;
  const Signer signer = life.signer();
  const PkeyPtr key = certificates::make_key(KeyKind::p256);
  X509_REQ *const request = X509_REQ_new();
  X509_REQ_set_pubkey(request, key.get());
  X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char *>("root"), -1, -1, 0);
  STACK_OF(X509_EXTENSION) *extensions = sk_X509_EXTENSION_new_null();
  for (const auto &[nid, value] : std::initializer_list<std::pair<int, const char *>>{
           {NID_subject_alt_name,
            "URI:spiffe://example.org/bank,URI:spiffe://example.org,DNS:bank.test,IP:192.0.2.1"},
           {NID_basic_constraints, "critical,CA:TRUE"},
           {NID_key_usage, "critical,keyCertSign,cRLSign"},
           {NID_ext_key_usage, "codeSigning"}}) {
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
    REQUIRE(extension != nullptr);
    sk_X509_EXTENSION_push(extensions, extension);
  }
  X509_REQ_add_extensions(request, extensions);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  X509_REQ_sign(request, key.get(), EVP_sha256());
  unsigned char *der = nullptr;
  const int length = i2d_X509_REQ(request, &der);
  X509_REQ_free(request);
  const auto proved =
      public_key_of_csr({reinterpret_cast<char *>(der), static_cast<std::size_t>(length)});
  OPENSSL_free(der);
  REQUIRE(proved);

  const auto made = signer.sign(id("web"), proved->get(), life.now, 3600);
  REQUIRE(made);
  const X509StackPtr chain = chain_of(made->chain);
  X509 *const leaf = sk_X509_value(chain.get(), 0);
  CHECK(uri_names(leaf).value() == std::vector<std::string>{"spiffe://example.org/web"});
  CHECK(X509_NAME_entry_count(X509_get_subject_name(leaf)) == 0);
  CHECK(X509_check_ca(leaf) == 0);
  CHECK(key_usage(leaf).value() == X509v3_KU_DIGITAL_SIGNATURE);
  CHECK(extended_key_usage(leaf).value() == (XKU_SSL_CLIENT | XKU_SSL_SERVER));
  auto *const names =
      static_cast<GENERAL_NAMES *>(X509_get_ext_d2i(leaf, NID_subject_alt_name, nullptr, nullptr));
  CHECK(sk_GENERAL_NAME_num(names) == 1);
  GENERAL_NAMES_free(names);
  CHECK(EVP_PKEY_eq(X509_get0_pubkey(leaf), key.get()) == 1);
}

TEST_CASE("what a signer refuses: another trust domain, no path, weak keys, too long a life") {
  const Life life;
  const Signer signer = life.signer();
  const PkeyPtr key = certificates::make_key(KeyKind::p256);
  CHECK_FALSE(signer.sign(*SpiffeId::parse("spiffe://example.com/web"), key.get(), life.now, 60));
  CHECK_FALSE(signer.sign(*SpiffeId::parse("spiffe://example.org"), key.get(), life.now, 60));
  for (const KeyKind kind : {KeyKind::p224, KeyKind::rsa1024, KeyKind::ed25519}) {
    CHECK_FALSE(signer.sign(id("web"), certificates::make_key(kind).get(), life.now, 60));
  }
  // No longer than the intermediate itself.
  const auto made = signer.sign(id("web"), key.get(), life.now, 1000 * kDay);
  REQUIRE(made);
  CHECK(made->issuance.not_after == life.now + 90 * kDay);
  CHECK_FALSE(signer.sign(id("web"), key.get(), life.now + 91 * kDay, 60));
}

TEST_CASE("the server's own SVID shows the root that the pin is of") {
  const Life life;
  const Signer signer = life.signer();
  const auto own = signer.server_svid(life.now, 3600);
  REQUIRE(own);
  CHECK(own->svid.id.uri() == "spiffe://example.org/inlay/ca");
  REQUIRE(own->svid.chain.size() == 3);
  CHECK(public_key_digest(own->svid.chain.back().get()) == signer.pin());
  CHECK(X509_check_private_key(own->svid.chain.front().get(), own->svid.key.get()) == 1);
  CHECK(own->issuance.spiffe_id == own->svid.id.uri());
}

TEST_CASE("JWT-SVIDs are validated with the bundle's keys, also after the key has changed") {
  Life life;
  const std::vector<std::string> audience{"db"};
  const auto validates = [&](const SignedJwt &jwt) {
    const Signer signer = life.signer();
    return validate_jwt_svid(
               jwt.token, "db", [&](std::string_view) { return &signer.bundle().jwt_authorities; },
               life.now)
        .has_value();
  };
  const auto first = life.signer().sign_jwt(id("web"), audience, life.now, 300);
  REQUIRE(first);
  CHECK(first->not_after == life.now + 300);
  CHECK(validates(*first));
  CHECK_FALSE(life.signer().sign_jwt(*SpiffeId::parse("spiffe://example.com/web"), audience,
                                     life.now, 300));

  life.now += 61 * kDay;
  life.maintained();
  CHECK(life.count(AuthorityKind::jwt, AuthorityState::prepared) == 1);
  CHECK(life.signer().bundle().jwt_authorities.size() == 2);
  const auto before = life.signer().sign_jwt(id("web"), audience, life.now, 2 * kDay);
  life.now += kDay - 1;
  CHECK_FALSE(due(life.rows, life.settings, life.now));
  life.now += 1;
  CHECK(due(life.rows, life.settings, life.now));
  life.maintained();
  CHECK(life.count(AuthorityKind::jwt, AuthorityState::prepared) == 0);
  CHECK(life.count(AuthorityKind::jwt, AuthorityState::retired) == 1);
  CHECK(validates(*before));
  CHECK(validates(*life.signer().sign_jwt(id("web"), audience, life.now, 300)));
  life.now += 30 * kDay;
  life.maintained();
  CHECK(life.count(AuthorityKind::jwt, AuthorityState::retired) == 0);
  CHECK(life.signer().bundle().jwt_authorities.size() == 1);
}

TEST_CASE("an intermediate is replaced in time; what the old one signed stays good") {
  Life life;
  const auto old = sign(life.signer(), life.now + 60 * kDay - 10);
  life.now += 60 * kDay;
  life.maintained();
  CHECK(life.count(AuthorityKind::intermediate, AuthorityState::active) == 1);
  CHECK(life.count(AuthorityKind::intermediate, AuthorityState::retired) == 1);
  const Signer signer = life.signer();
  CHECK_FALSE(verdict(old.chain, signer, life.now));
  CHECK(sign(signer, life.now).issuance.issuer != old.issuance.issuer);
  life.now += 31 * kDay;
  life.maintained();
  CHECK(life.count(AuthorityKind::intermediate, AuthorityState::retired) == 0);
  for (const AuthorityRow &row : life.rows) {
    CHECK(row.sealed_key.empty() == (row.state == AuthorityState::revoked));
  }
}

TEST_CASE("a root is replaced without a moment in which peers refuse each other") {
  Life life;
  const Signer before = life.signer();
  const auto old = sign(before, life.now);
  CHECK(refused(activate_root(life.rows, life.seal, life.settings, life.now, false),
                "make one first with inlay ca rotate prepare"));
  CHECK(refused(taint_root(life.rows, life.now), "no root is retired"));
  CHECK(refused(revoke_root(life.rows, life.now), "no root is tainted or prepared"));

  REQUIRE(prepare_root(life.rows, life.seal, life.settings, life.now));
  CHECK(refused(prepare_root(life.rows, life.seal, life.settings, life.now), "is prepared since"));
  const Signer prepared = life.signer();
  CHECK(prepared.bundle().x509_authorities.size() == 2);
  CHECK(prepared.pin() == before.pin());
  CHECK_FALSE(verdict(sign(prepared, life.now).chain, before, life.now));
  CHECK(refused(activate_root(life.rows, life.seal, life.settings, life.now + kDay - 1, false),
                "--now does it at once"));

  life.now += kDay;
  REQUIRE(activate_root(life.rows, life.seal, life.settings, life.now, false));
  const Signer active = life.signer();
  CHECK(active.pin() != before.pin());
  const auto renewed = sign(active, life.now);
  CHECK_FALSE(verdict(renewed.chain, prepared, life.now));
  CHECK(verdict(renewed.chain, before, life.now) == VerifyError::untrusted);
  CHECK_FALSE(verdict(old.chain, active, life.now - kDay));
  CHECK(active.tainted().empty());
  CHECK_FALSE(due(life.rows, life.settings, life.now));

  REQUIRE(taint_root(life.rows, life.now));
  const Signer tainted = life.signer();
  CHECK(tainted.tainted() == std::vector{before.pin()});
  CHECK_FALSE(verdict(old.chain, tainted, life.now - kDay));
  REQUIRE(revoke_root(life.rows, life.now));
  const Signer revoked = life.signer();
  CHECK(revoked.tainted().empty());
  CHECK(revoked.bundle().x509_authorities.size() == 1);
  CHECK(verdict(old.chain, revoked, life.now - kDay) == VerifyError::untrusted);
  CHECK_FALSE(verdict(renewed.chain, revoked, life.now));
}

TEST_CASE("what ends is named 60, 30, 7 and 1 days before, and louder each time") {
  constexpr std::time_t kEnd = 1000 * kDay;
  const auto step = [&](std::time_t before) {
    return ending("it", "replace it", kEnd, kEnd - before).step;
  };
  CHECK(step(60 * kDay + 1) == 0);
  CHECK(step(60 * kDay) == 1);
  CHECK(step(30 * kDay) == 2);
  CHECK(step(7 * kDay) == 3);
  CHECK(step(kDay) == 4);
  CHECK(step(-kDay) == 4);
  CHECK(ending("it", "replace it", kEnd, kEnd - 61 * kDay).text.empty());
  CHECK(ending("it", "replace it", kEnd, kEnd - 5 * kDay).text ==
        "it ends at 1972-09-27T00:00:00Z, in 5 days: replace it");
}

TEST_CASE("two roots made in one second have different names") {
  Life life;
  REQUIRE(prepare_root(life.rows, life.seal, life.settings, life.now));
  std::vector<std::string> roots;
  for (const AuthorityRow &row : life.rows) {
    if (row.kind == AuthorityKind::root) roots.push_back(row.certificate);
  }
  REQUIRE(roots.size() == 2);
  const X509StackPtr chain = chain_of(roots);
  CHECK(X509_NAME_cmp(X509_get_subject_name(sk_X509_value(chain.get(), 0)),
                      X509_get_subject_name(sk_X509_value(chain.get(), 1))) != 0);
}

TEST_CASE("a prepared root can be taken back; with --now it signs at once") {
  Life life;
  REQUIRE(prepare_root(life.rows, life.seal, life.settings, life.now));
  REQUIRE(revoke_root(life.rows, life.now));
  CHECK(life.signer().bundle().x509_authorities.size() == 1);
  REQUIRE(prepare_root(life.rows, life.seal, life.settings, life.now));
  CHECK(activate_root(life.rows, life.seal, life.settings, life.now, true));
}

TEST_CASE("a CRL for each intermediate: peers refuse what is revoked and nothing else") {
  Life life;
  const auto first = sign(life.signer(), life.now), other = sign(life.signer(), life.now);
  REQUIRE(prepare_root(life.rows, life.seal, life.settings, life.now));
  REQUIRE(activate_root(life.rows, life.seal, life.settings, life.now, true));
  const Signer signer = life.signer();
  const auto second = sign(signer, life.now);
  Issuance gone = first.issuance;
  gone.revoked_at = life.now;
  const auto crls = signer.crls(std::vector{gone}, life.now, 3600);
  REQUIRE(crls);
  REQUIRE(crls->size() == 2);
  CHECK(verdict(first.chain, signer, life.now, *crls) == VerifyError::revoked);
  CHECK_FALSE(verdict(other.chain, signer, life.now, *crls));
  CHECK_FALSE(verdict(second.chain, signer, life.now, *crls));
  for (const std::string &der : *crls) {
    const auto parsed = parse_crls(der);
    REQUIRE(parsed);
    CHECK(parsed->front().this_update == life.now);
    CHECK(parsed->front().next_update == life.now + 3600);
  }
}

TEST_CASE("an upstream's intermediate signs, its bundle is ours, and there is no root to rotate") {
  Life life;
  certificates::Knobs root_knobs, knobs;
  root_knobs.basic_constraints = "critical,CA:TRUE";
  knobs.basic_constraints = "critical,CA:TRUE,pathlen:0";
  knobs.key_usage = "critical,keyCertSign,cRLSign";
  const auto root = certificates::make_authority("example.org", root_knobs);
  const auto intermediate = certificates::make_intermediate(root, "example.org", knobs);
  const auto stranger = certificates::make_authority("example.org", root_knobs);
  const UpstreamFiles files{
      life.folder.write("ca.pem", certificates::to_pem(intermediate.certificate.get())),
      life.folder.write("key.pem", certificates::to_pem(intermediate.key.get()), 0600),
      life.folder.write("bundle.pem", certificates::to_pem(stranger.certificate.get()) +
                                          certificates::to_pem(root.certificate.get()))};
  auto upstream = load_upstream(files, "example.org");
  REQUIRE_MESSAGE(upstream, (upstream ? "" : upstream.error()));
  AuthorityRows rows;
  life.settings.upstream = true;
  REQUIRE(maintain(rows, life.seal, life.settings, life.now));
  CHECK(rows.size() == 1);  // a JWT key
  const auto signer = Signer::open(rows, 1, life.seal, "example.org", std::move(*upstream));
  REQUIRE(signer);
  CHECK(signer->pin() == public_key_digest(root.certificate.get()));
  CHECK(signer->bundle().x509_authorities.size() == 2);
  const auto made = sign(*signer, life.now);
  CHECK_FALSE(verdict(made.chain, *signer, life.now));
  const auto own = signer->server_svid(life.now, 60);
  REQUIRE(own);
  CHECK(own->svid.chain.size() == 3);
  Issuance gone = made.issuance;
  gone.revoked_at = life.now;
  CHECK(verdict(made.chain, *signer, life.now, *signer->crls(std::vector{gone}, life.now, 60)) ==
        VerifyError::revoked);

  const auto complaint = [&](const UpstreamFiles &wrong) {
    const auto loaded = load_upstream(wrong, "example.org");
    return loaded ? std::string() : loaded.error();
  };
  UpstreamFiles wrong = files;
  wrong.bundle = life.folder.write("wrong.pem", certificates::to_pem(stranger.certificate.get()));
  CHECK(complaint(wrong).find("does not lead to a certificate of") != std::string::npos);
  wrong = files;
  wrong.key = life.folder.write("open.pem", certificates::to_pem(intermediate.key.get()), 0644);
  CHECK(complaint(wrong).find("the upstream key") != std::string::npos);
  wrong = files;
  wrong.key = life.folder.write("other.pem", certificates::to_pem(root.key.get()), 0600);
  CHECK(complaint(wrong).find("does not belong to its certificate") != std::string::npos);
}

TEST_CASE("with another seal nothing is signed, and the message names the file") {
  const Life life;
  const auto other = Seal::open(life.folder.path() + "/other.key", true);
  REQUIRE(other);
  const auto signer = Signer::open(life.rows, 1, *other, "example.org");
  REQUIRE_FALSE(signer);
  CHECK(signer.error().find("other.key does not open the keys") != std::string::npos);
}
