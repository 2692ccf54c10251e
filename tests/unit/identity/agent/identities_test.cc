#include "identity/agent/identities.h"

#include <openssl/core_names.h>
#include <openssl/param_build.h>

#include <condition_variable>
#include <mutex>

#include "certificates.h"
#include "identities_setup.h"
#include "identity/certificate.h"

using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;
namespace certificates = inlay::testing;

namespace {

// The public half of `key`, P-256, with a private one that is not its own.
PkeyPtr with_another_private_half(EVP_PKEY *key) {
  unsigned char point[65];
  std::size_t length = 0;
  REQUIRE(EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point,
                                          &length) == 1);
  const PkeyPtr other = certificates::make_key(certificates::KeyKind::p256);
  BIGNUM *secret = nullptr;
  REQUIRE(EVP_PKEY_get_bn_param(other.get(), OSSL_PKEY_PARAM_PRIV_KEY, &secret) == 1);
  OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
  OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0);
  OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point, length);
  OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_PRIV_KEY, secret);
  OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(builder);
  EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(library_context(), "EC", nullptr);
  EVP_PKEY *made = nullptr;
  EVP_PKEY_fromdata_init(context);
  REQUIRE(EVP_PKEY_fromdata(context, &made, EVP_PKEY_KEYPAIR, params) == 1);
  EVP_PKEY_CTX_free(context);
  OSSL_PARAM_free(params);
  OSSL_PARAM_BLD_free(builder);
  BN_free(secret);
  return PkeyPtr(made);
}

}  // namespace

TEST_CASE("the first SVIDs are there at once, unless the source waits") {
  Setup setup({id("web"), id("db")});
  CHECK(setup.state("web").current);
  CHECK(setup.state("db").current);
  CHECK(setup.state("web").rotations == 0);
  CHECK(setup.why().empty());
  CHECK(setup.identities->view()->trust.bundles.count("example.org") == 1);
  CHECK(setup.identities->source_name() == "the test's source");
  CHECK(setup.identities->obtain_jwt(id("web"), {"db"}).has_value());

  Setup waiting({id("web")}, {.waits = true});
  CHECK(waiting.by.obtained == 0);
  CHECK(waiting.identities->view()->identities.empty());
  waiting.identities->renew();
  CHECK(waiting.state().current);
}

TEST_CASE("an SVID is renewed at half its life, a tenth sooner or later by chance") {
  for (const auto &[chance, share] :
       {std::pair(0.0, 0.45), std::pair(0.5, 0.5), std::pair(0.9999, 0.55)}) {
    CAPTURE(chance);
    Setup setup;
    setup.clock.chance = chance;
    setup.clock.pass(3000);
    setup.identities->renew();  // the first one was made before chance was set
    const auto first = setup.state().current;
    const auto life = static_cast<double>(first->svid.not_after - setup.clock.now);
    CHECK(static_cast<double>(first->renew_at - setup.clock.now) ==
          doctest::Approx(share * life).epsilon(0.001));
    CHECK(setup.identities->renew() <= (first->renew_at - setup.clock.now) * 1000);

    setup.clock.pass(first->renew_at - setup.clock.now - 1);
    setup.identities->renew();
    CHECK(setup.state().current == first);
    setup.clock.pass(1);
    setup.identities->renew();
    CHECK(setup.state().current != first);
    CHECK(setup.state().current->key_id != first->key_id);
    CHECK(setup.state().rotations == 2);
  }
}

TEST_CASE("the old SVID and its key are kept until it expires, and no longer") {
  Setup setup;
  const auto first = setup.state().current;
  setup.clock.pass(first->renew_at - setup.clock.now);
  setup.identities->renew();
  REQUIRE(setup.state().previous.size() == 1);
  CHECK(setup.state().previous.front() == first);
  setup.live(first->svid.not_after - setup.clock.now - 1);
  const auto &kept = setup.state().previous;
  CHECK(std::find(kept.begin(), kept.end(), first) != kept.end());
  setup.live(1);
  const auto &now = setup.state().previous;
  CHECK(std::find(now.begin(), now.end(), first) == now.end());
}

TEST_CASE("T73 a hundred rotations: one change for each, and never a moment without an SVID") {
  Setup setup({id("web")}, {}, 120);
  int changes = 0;
  setup.identities->on_change([&] {
    ++changes;
    CHECK(setup.why().empty());
  });
  std::uint64_t generation = setup.identities->view()->generation;
  while (setup.state().rotations < 100) {
    setup.live(1);
    CHECK(setup.why().empty());
    CHECK(setup.identities->view()->generation >= generation);
    generation = setup.identities->view()->generation;
    CHECK(setup.state().previous.size() <= 3);
  }
  CHECK(changes >= 100);
  CHECK(changes <= 200);  // the other ones: an old SVID has expired
}

TEST_CASE("a failed renewal is tried again after 1 s, 2 s and so on to 30 s, by chance sooner") {
  Setup setup;
  setup.clock.chance = 0.9999;
  setup.by.outage = "the authority is down";
  setup.clock.pass(setup.state().current->renew_at - setup.clock.now);
  const int before = setup.by.obtained;
  std::vector<std::int64_t> waits;
  for (int attempt = 0; attempt < 8; ++attempt) {
    const std::int64_t wait = setup.identities->renew();
    waits.push_back((wait + 999) / 1000);
    CHECK(setup.by.obtained == before + attempt + 1);
    setup.clock.pass_milliseconds(wait);
  }
  CHECK(waits == std::vector<std::int64_t>{1, 2, 4, 8, 16, 30, 30, 30});
  CHECK(setup.state().error == "the authority is down");
  CHECK(setup.state().current);
  CHECK(setup.why().empty());

  // Not before its time.
  const std::int64_t wait = setup.identities->renew();
  setup.clock.pass_milliseconds(wait - 1);
  const int asked = setup.by.obtained;
  setup.identities->renew();
  CHECK(setup.by.obtained == asked);

  setup.clock.chance = 0;
  setup.clock.pass_milliseconds(1);
  CHECK(setup.identities->renew() == 15000);
  setup.by.outage.clear();
  setup.clock.pass(15);
  setup.identities->renew();
  CHECK(setup.state().error.empty());
  CHECK(setup.state().rotations == 1);
}

TEST_CASE(
    "T64 an outage to the end of the SVID: it serves until then, then nothing, with a reason") {
  Setup setup;
  const auto last = setup.state().current;
  setup.by.outage = "the authority is down";
  setup.live(last->svid.not_after - setup.clock.now - 1);
  CHECK(setup.state().current == last);
  CHECK(setup.why().empty());
  setup.live(1);
  CHECK_FALSE(setup.state().current);
  CHECK(setup.state().previous.empty());
  CHECK(setup.why() == "the authority is down");
  CHECK(setup.identities->view()->trust.bundles.count("example.org") == 1);

  // Its end is found again without a restart, within half a minute.
  setup.by.outage.clear();
  setup.live(30);
  CHECK(setup.state().current);
  CHECK(setup.why().empty());
}

TEST_CASE("an SVID that peers would refuse is not taken, and the old one stays") {
  Setup setup;
  AuthorityFolder stranger;
  const auto issue = [&](const AuthorityFolder &by, const SpiffeId &of, std::time_t at,
                         std::time_t lifetime = 3600) {
    const auto authority = Authority::parse(by.read("ca.pem"), by.read("ca-key.pem"));
    const auto issued = authority->issue(of, at, lifetime);
    REQUIRE(issued);
    auto svid = parse_svid(issued->chain_pem, issued->key_pem);
    REQUIRE(svid);
    return std::move(*svid);
  };
  const std::time_t now = setup.clock.now;
  struct Row {
    const char *name;
    std::function<X509Svid()> give;
    const char *complaint;
  };
  const Row rows[] = {
      {"another's ID", [&] { return issue(setup.folder, id("admin"), now); },
       "it is of spiffe://example.org/admin"},
      {"an authority that is not in the bundle", [&] { return issue(stranger, id("web"), now); },
       "peers would refuse it"},
      {"expired", [&] { return issue(setup.folder, id("web"), now, 60); }, "the clock here says"},
      {"of tomorrow", [&] { return issue(setup.folder, id("web"), now + kDay); },
       "the clock here says"},
      {"another's key",
       [&] {
         X509Svid svid = issue(setup.folder, id("web"), now);
         svid.key = certificates::make_key(certificates::KeyKind::p256);
         return svid;
       },
       "does not belong"},
      {"another's key under its own public half",
       [&] {
         X509Svid svid = issue(setup.folder, id("web"), now);
         svid.key = with_another_private_half(svid.key.get());
         return svid;
       },
       "does not belong"},
      {"no key",
       [&] {
         X509Svid svid = issue(setup.folder, id("web"), now);
         svid.key.reset();
         return svid;
       },
       "no key"},
      {"nothing at all",
       [&] {
         X509Svid svid = issue(setup.folder, id("web"), now);
         svid.chain.clear();
         return svid;
       },
       "no certificate"},
  };
  const auto before = setup.state().current;
  setup.clock.pass(before->renew_at - setup.clock.now);
  for (const Row &row : rows) {
    CAPTURE(row.name);
    setup.by.instead = row.give;
    setup.clock.pass(30);
    const int asked = setup.by.obtained;
    setup.identities->renew();
    CHECK(setup.by.obtained == asked + 1);
    CHECK(setup.state().current == before);
    CHECK(setup.state().rotations == 0);
    CAPTURE(setup.state().error);
    CHECK(setup.state().error.find(row.complaint) != std::string::npos);
    CHECK(setup.state().error.find("the test's source") != std::string::npos);
    CHECK(setup.state().error.find('\n') == std::string::npos);
  }
  setup.by.instead = nullptr;
  setup.clock.pass(30);
  setup.identities->renew();
  CHECK(setup.state().error.empty());
  CHECK(setup.state().rotations == 1);
}

TEST_CASE("T20 an authority taken out of the bundle: what it signed is replaced at once") {
  Setup setup;
  const auto before = setup.state().current;
  setup.folder.renew();
  setup.news();
  setup.identities->renew();
  CHECK(setup.state().current != before);
  CHECK(setup.state().error.empty());
  CHECK(setup.state().rotations == 1);

  // The bundle alone: the authority issues what nobody would take.
  const auto held = setup.state().current;
  AuthorityFolder other;
  setup.folder.put("bundle.pem", other.read("bundle.pem"));
  setup.news();
  setup.identities->renew();
  CHECK(setup.state().current == held);
  CHECK(setup.state().error.find("peers would refuse it") != std::string::npos);
  CHECK(setup.state().next_attempt > 0);
}

TEST_CASE("an authority added to the bundle changes no SVID") {
  Setup setup;
  const auto before = setup.state().current;
  AuthorityFolder other;
  setup.folder.put("bundle.pem", setup.folder.read("bundle.pem") + other.read("bundle.pem"));
  setup.news();
  const std::uint64_t generation = setup.identities->view()->generation;
  setup.identities->renew();
  CHECK(setup.identities->view()->generation == generation + 1);
  CHECK(setup.identities->view()->trust.bundles.at("example.org").x509_authorities.size() == 2);
  CHECK(setup.state().current == before);
}

TEST_CASE("a bundle that breaks leaves the last good one in force, and says so") {
  Setup setup;
  const Trust before = setup.identities->view()->trust;
  setup.folder.put("bundle.pem", "");
  setup.news();
  setup.identities->renew();
  CHECK(setup.identities->view()->trust == before);
  CHECK(setup.identities->view()->trust_error.find("bundle.pem") != std::string::npos);
  CHECK(setup.why().empty());
}

TEST_CASE("a source that does not issue is asked after news, not at half life") {
  Setup setup({id("web")}, {.issues = false});
  const auto before = setup.state().current;
  CHECK(before->renew_at == 0);
  const int asked = setup.by.obtained;
  setup.live(3000);
  CHECK(setup.by.obtained == asked);
  setup.news();
  setup.identities->renew();
  CHECK(setup.by.obtained == asked + 1);
  CHECK(setup.state().current != before);
  CHECK(setup.state().rotations == 1);
}

TEST_CASE("news of the same SVID are no rotation") {
  Setup setup({id("web")}, {.issues = false});
  const auto before = setup.state().current;
  setup.by.instead = [&] { return share(before->svid); };
  const std::uint64_t generation = setup.identities->view()->generation;
  setup.news();
  setup.identities->renew();
  CHECK(setup.state().current == before);
  CHECK(setup.state().rotations == 0);
  CHECK(setup.identities->view()->generation == generation);
}

TEST_CASE("entries that come get an SVID at once, for ever; those that go lose it") {
  Setup setup;
  const auto web = setup.state("web").current;
  // As new entries come and go for days.
  for (int entry = 0; entry < 200; ++entry) {
    const std::string name = "job-" + std::to_string(entry);
    setup.identities->want({id("web"), id(name)});
    setup.identities->renew();
    CHECK(setup.state(name).current);
    CHECK(setup.why(name).empty());
    CHECK(setup.identities->view()->identities.size() == 2);
  }
  CHECK(setup.state("web").current == web);
  CHECK(setup.why("job-1") == "no entry has the ID spiffe://example.org/job-1");
}

TEST_CASE("a new entry is obtained while others fail, and the failing one says why") {
  Setup setup;
  setup.identities->want({id("web"), *SpiffeId::parse("spiffe://other.org/a")});
  setup.identities->renew();
  CHECK(setup.why("web").empty());
  const auto view = setup.identities->view();
  CHECK(why_no_svid(*view, "spiffe://other.org/a", setup.clock.now).find("trust domain") !=
        std::string::npos);
  setup.identities->want({id("web"), *SpiffeId::parse("spiffe://other.org/a"), id("db")});
  setup.identities->renew();
  CHECK(setup.why("db").empty());
}

TEST_CASE("the thread renews, hears of other entries, and ends with its object") {
  const AuthorityFolder folder;
  std::mutex mutex;
  std::condition_variable changed;
  auto source = open_authority({folder.path(), 3600, {}});
  REQUIRE(source);
  Identities identities(std::move(*source), {id("web")});
  identities.on_change([&] {
    const std::lock_guard lock(mutex);
    changed.notify_all();
  });
  identities.start();
  identities.want({id("web"), id("db")});
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return identities.view()->identities.size() == 2; });
  CHECK(identities.view()->identities.at(id("db").uri()).current);
  // Files that change are noticed without being told.
  const AuthorityFolder other;
  folder.put("bundle.pem", folder.read("bundle.pem") + other.read("bundle.pem"));
  changed.wait(lock, [&] {
    return identities.view()->trust.bundles.at("example.org").x509_authorities.size() == 2;
  });
}

TEST_CASE("T20 a tainted authority: what rests on it stays good, and is replaced at once") {
  std::vector<std::array<std::uint8_t, 32>> tainted;
  Setup setup({id("web")}, {.change_trust = [&](auto &trust) {
                if (trust) trust->tainted = tainted;
              }});
  const auto before = setup.state().current;
  const std::string &der = setup.seen->trust.bundles.at("example.org").x509_authorities[0];
  const auto root =
      certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
  tainted = {public_key_digest(root.get())};
  setup.by.outage = "the authority is down";
  setup.news();
  setup.identities->renew();
  CHECK(setup.state().current == before);
  setup.by.outage.clear();
  setup.clock.pass(30);
  setup.identities->renew();
  const auto second = setup.state().current;
  CHECK(second != before);
  CHECK(setup.why().empty());
  // One who has not heard of it signs with the tainted one still: it is asked again, not at once.
  const int asked = setup.by.obtained;
  CHECK(setup.identities->renew() >= 500);
  CHECK(setup.by.obtained == asked);
  tainted.clear();
  setup.news();
  setup.clock.pass(30);
  setup.identities->renew();
  CHECK(setup.by.obtained == asked + 1);
  CHECK(setup.state().current != second);
  setup.clock.pass(30);
  setup.identities->renew();
  CHECK(setup.by.obtained == asked + 1);

  // Another one than its own changes nothing.
  tainted = {{}};
  setup.news();
  setup.identities->renew();
  CHECK(setup.by.obtained == asked + 1);
}
