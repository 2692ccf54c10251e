#include <poll.h>
#include <unistd.h>

#include <functional>

#include "authority_folder.h"
#include "certificates.h"
#include "identity/agent/authority_source.h"
#include "identity/agent/files_source.h"
#include "identity/certificate.h"
#include "identity/jwk.h"
#include "identity/jwt_svid.h"
#include "identity/verify.h"

using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;
namespace certificates = inlay::testing;

namespace {

SpiffeId id(const std::string &path) { return *SpiffeId::parse("spiffe://example.org/" + path); }

std::unique_ptr<Source> open(const AuthorityFolder &folder, HandClock &clock,
                             std::time_t lifetime = 3600) {
  auto source = open_authority({folder.path(), lifetime, {}}, clock.clock());
  REQUIRE_MESSAGE(source, (source ? "" : source.error().message));
  return std::move(*source);
}

template <typename T>
bool says(const tl::expected<T, SourceFailure> &outcome, const std::string &part) {
  if (outcome || outcome.error().message.find(part) == std::string::npos) {
    MESSAGE((outcome ? "good" : outcome.error().message));
    return false;
  }
  return outcome.error().message.find('\n') == std::string::npos;
}

// Whether a peer that has this trust would take the SVID.
bool verifies(const X509Svid &svid, const Trust &trust, std::time_t now) {
  BundleSet bundles;
  for (const auto &[trust_domain, bundle] : trust.bundles) {
    for (const std::string &der : bundle.x509_authorities) {
      bundles[trust_domain].authorities.push_back(
          certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()}));
    }
  }
  const X509StackPtr chain(sk_X509_new_null());
  for (const X509Ptr &certificate : svid.chain) {
    X509_up_ref(certificate.get());
    sk_X509_push(chain.get(), certificate.get());
  }
  return verify_x509_svid(chain.get(), bundles, now).has_value();
}

}  // namespace

TEST_CASE("an authority's folder gives SVIDs with keys of their own, of the time that was asked") {
  const AuthorityFolder folder;
  HandClock clock;
  const auto source = open(folder, clock, 600);
  CHECK(source->issues());
  CHECK(source->name() == "authority " + folder.path());
  const auto trust = source->trust();
  REQUIRE(trust);
  const auto one = source->obtain(id("web")), two = source->obtain(id("web"));
  REQUIRE(one);
  REQUIRE(two);
  CHECK(one->id.uri() == "spiffe://example.org/web");
  CHECK(one->not_after == clock.now + 600);
  CHECK(EVP_PKEY_eq(one->key.get(), two->key.get()) == 0);
  CHECK(verifies(*one, *trust, clock.now));
  CHECK(says(source->obtain(*SpiffeId::parse("spiffe://other.org/web")), "trust domain"));
}

TEST_CASE("no SVID outlives the authority, and one of an authority that ended says both times") {
  const AuthorityFolder folder;
  HandClock clock;
  const auto source = open(folder, clock);
  clock.pass(kAuthorityLifetime - 100);
  const auto last = source->obtain(id("web"));
  REQUIRE(last);
  CHECK(last->not_after - clock.now <= 100);
  clock.pass(200);
  const auto none = source->obtain(id("web"));
  CHECK(says(none, "expired at"));
  CHECK(says(none, time_text(clock.now)));
}

TEST_CASE("an authority's folder gives JWT-SVIDs that its bundle validates") {
  const AuthorityFolder folder;
  HandClock clock;
  const auto source = open(folder, clock);
  const auto token = source->obtain_jwt(id("web"), {"db"});
  REQUIRE(token);
  CHECK(token->not_after == clock.now + kJwtLifetime);
  const auto trust = source->trust();
  REQUIRE(trust);
  const auto claims = validate_jwt_svid(
      token->token, "db",
      [&](std::string_view) { return &trust->bundles.at("example.org").jwt_authorities; },
      clock.now);
  CHECK(claims.has_value());
  CHECK(says(source->obtain_jwt(*SpiffeId::parse("spiffe://other.org/a"), {"db"}), "trust domain"));
  CHECK(says(source->obtain_jwt(id("web"), {}), "audience"));
  std::filesystem::remove(folder.at("jwt-key.pem"));
  CHECK(says(source->obtain_jwt(id("web"), {"db"}), "openssl genpkey"));
}

TEST_CASE("a folder that is no authority, or that others could have written, is refused") {
  HandClock clock;
  struct Row {
    const char *name;
    std::function<void(const AuthorityFolder &)> spoil;
    const char *complaint;
  };
  const Row rows[] = {
      {"no key", [](const auto &it) { std::filesystem::remove(it.at("ca-key.pem")); }, "ca-key"},
      {"a key for all to read", [](const auto &it) { chmod(it.at("ca-key.pem").c_str(), 0644); },
       "chmod 600"},
      {"a JWT key for all to read",
       [](const auto &it) { chmod(it.at("jwt-key.pem").c_str(), 0604); }, "chmod 600"},
      {"a bundle for all to write",
       [](const auto &it) { chmod(it.at("bundle.pem").c_str(), 0666); }, "bundle.pem"},
      {"a folder for all to write", [](const auto &it) { chmod(it.path().c_str(), 0777); },
       "folder"},
      {"another's key", [](const auto &it) { it.put("ca-key.pem", make_jwt_key_pem(), 0600); },
       "does not belong"},
      {"half a certificate",
       [](const auto &it) { it.put("ca.pem", it.read("ca.pem").substr(0, 300)); }, "certificate"},
      {"half a bundle",
       [](const auto &it) { it.put("bundle.pem", it.read("bundle.pem").substr(0, 300)); },
       "bundle.pem is not usable"},
      {"a JWT key that is none", [](const auto &it) { it.put("jwt-key.pem", "key", 0600); },
       "jwt-key.pem"},
      {"a CRL that is none", [](const auto &it) { it.put("crl.pem", "crl"); }, "crl.pem"},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    const AuthorityFolder folder;
    row.spoil(folder);
    CHECK(says(open_authority({folder.path(), 3600, {}}, clock.clock()), row.complaint));
  }
  CHECK(says(open_authority({"/nonexistent", 3600, {}}, clock.clock()), "inlay ca init"));
}

TEST_CASE("an authority whose files break keeps the last good set, and says what is wrong") {
  const AuthorityFolder folder;
  HandClock clock;
  const auto source = open(folder, clock);
  (void)source->take_news();
  CHECK_FALSE(source->take_news());
  const std::string good = folder.read("ca.pem");
  folder.put("ca.pem", good.substr(0, good.size() / 2));
  CHECK(source->take_news());
  CHECK(says(source->trust(), "no usable authority"));
  CHECK(source->obtain(id("web")).has_value());
  CHECK_FALSE(source->take_news());
  folder.put("ca.pem", good);
  CHECK(source->take_news());
  CHECK(source->trust().has_value());
}

TEST_CASE("another authority in the folder is news, and what it issues is of its own bundle") {
  AuthorityFolder folder;
  HandClock clock;
  const auto source = open(folder, clock);
  const auto before = source->trust();
  const auto old = source->obtain(id("web"));
  folder.renew();
  CHECK(source->take_news());
  const auto after = source->trust();
  REQUIRE(after);
  CHECK(*before != *after);
  const auto renewed = source->obtain(id("web"));
  REQUIRE(renewed);
  CHECK(verifies(*renewed, *after, clock.now));
  CHECK_FALSE(verifies(*old, *after, clock.now));
}

TEST_CASE("a CRL of the authority's own is handed on; one of somebody else's is refused") {
  const AuthorityFolder folder, other;
  HandClock clock;
  const auto source = open(folder, clock);
  CHECK(source->trust()->crls.empty());
  folder.put("crl.pem",
             make_crl(folder.read("ca.pem"), folder.read("ca-key.pem"), nullptr, clock.now));
  CHECK(source->take_news());
  REQUIRE(source->trust());
  CHECK(source->trust()->crls.size() == 1);
  folder.put("crl.pem",
             make_crl(other.read("ca.pem"), other.read("ca-key.pem"), nullptr, clock.now));
  CHECK(source->take_news());
  CHECK(says(source->trust(), "no authority of the bundle"));
}

namespace {

struct SvidSet {
  std::string folder;
  explicit SvidSet(const AuthorityFolder &in) : folder(in.path()) {}
  SvidFiles files(const std::string &name) const {
    return {folder + "/" + name + ".pem", folder + "/" + name + "-key.pem", folder + "/bundle.pem"};
  }
};

void issue_files(const AuthorityFolder &folder, const std::string &name,
                 std::time_t lifetime = 3600) {
  const auto authority = Authority::parse(folder.read("ca.pem"), folder.read("ca-key.pem"));
  const auto issued = authority->issue(id(name), std::time(nullptr), lifetime);
  REQUIRE(issued);
  folder.put(name + "-key.pem", issued->key_pem, 0600);
  folder.put(name + ".pem", issued->chain_pem);
}

}  // namespace

TEST_CASE("several SVIDs from files, each by the ID that its leaf has") {
  const AuthorityFolder folder;
  const SvidSet set(folder);
  issue_files(folder, "web");
  issue_files(folder, "db");
  const auto source = open_files({"example.org", {set.files("web"), set.files("db")}, {}, {}});
  CHECK_FALSE(source->issues());
  const auto web = source->obtain(id("web")), db = source->obtain(id("db"));
  REQUIRE(web);
  REQUIRE(db);
  CHECK(web->id.uri() == "spiffe://example.org/web");
  CHECK(EVP_PKEY_eq(web->key.get(), db->key.get()) == 0);
  const auto trust = source->trust();
  REQUIRE(trust);
  CHECK(trust->bundles.at("example.org").x509_authorities.size() == 1);
  CHECK(says(source->obtain(id("other")), "db.pem has spiffe://example.org/db"));
  CHECK(says(source->obtain_jwt(id("web"), {"db"}), "cannot issue JWT-SVIDs"));
}

TEST_CASE("files that come later are news; a half-written set is an error that goes by itself") {
  const AuthorityFolder folder;
  const SvidSet set(folder);
  const auto source = open_files({"example.org", {set.files("web")}, {}, {}});
  CHECK(says(source->obtain(id("web")), "No such file"));
  issue_files(folder, "web");
  CHECK(source->take_news());
  const auto first = source->obtain(id("web"));
  REQUIRE(first);

  issue_files(folder, "spare");
  const std::string key = folder.read("web-key.pem");
  folder.put("web-key.pem", folder.read("spare-key.pem"), 0600);
  CHECK(source->take_news());
  CHECK(says(source->obtain(id("web")), "does not belong"));
  CHECK_FALSE(source->take_news());
  folder.put("web-key.pem", key, 0600);
  CHECK(source->take_news());
  REQUIRE(source->obtain(id("web")));

  chmod(folder.at("web-key.pem").c_str(), 0644);
  CHECK(source->take_news());
  CHECK(says(source->obtain(id("web")), "chmod 600"));
}

TEST_CASE("bundles from files: of further trust domains, and as SPIFFE JSON with JWT authorities") {
  const AuthorityFolder folder, other("other.org");
  const SvidSet set(folder);
  issue_files(folder, "web");
  const auto key = certificates::make_key(certificates::KeyKind::p256);
  TrustDomainBundle further;
  further.jwt_authorities["k"] = public_key_der(key.get());
  further.sequence = 7;
  folder.put("other.json", bundle_document(further));
  const auto source =
      open_files({"example.org", {set.files("web")}, {{"other.org", folder.at("other.json")}}, {}});
  const auto trust = source->trust();
  REQUIRE(trust);
  CHECK(trust->bundles.at("other.org") == further);
  folder.put("other.json", "{");
  CHECK(source->take_news());
  CHECK(says(source->trust(), "other.json of other.org"));
  CHECK(source->obtain(id("web")).has_value());
}

TEST_CASE("news wait for the next second, on a descriptor that can be polled") {
  const AuthorityFolder folder;
  HandClock clock;
  const auto source = open(folder, clock);
  REQUIRE(source->news_fd() >= 0);
  std::uint64_t count = 0;
  // Waits for it as Identities does, and never longer than the test's own patience.
  pollfd waited{source->news_fd(), POLLIN, 0};
  REQUIRE(poll(&waited, 1, 60000) == 1);
  (void)source->take_news();
  CHECK(read(source->news_fd(), &count, sizeof count) == -1);
}
