// What is taken as another trust domain's bundle, when the next is fetched, and that none goes
// back.
#include "identity/ca/federation.h"

#include <doctest/doctest.h>

#include "../certificates.h"
#include "identity/ca/database.h"
#include "identity/certificate.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::ca;

namespace {

std::string document(const char *trust_domain, std::uint64_t sequence) {
  TrustDomainBundle bundle;
  bundle.x509_authorities.push_back(
      certificate_der(testing::make_authority(trust_domain).certificate.get()));
  bundle.sequence = sequence;
  return bundle_document(bundle);
}

}  // namespace

TEST_CASE("a bundle is one of the trust domain that was asked for, with an authority in it") {
  CHECK(judge_fetched_bundle(document("b.test", 1), "b.test"));
  for (const std::string &bad :
       {document("c.test", 1), std::string("{\"keys\": []}"), std::string("{}"), std::string("x"),
        std::string(), testing::to_pem(testing::make_authority("b.test").certificate.get())}) {
    const auto judged = judge_fetched_bundle(bad, "b.test");
    REQUIRE(!judged);
    CHECK(judged.error().find('\n') == std::string::npos);
  }
}

TEST_CASE("the next is fetched as the document asks, within bounds, and sooner after a failure") {
  CHECK(fetch_interval(300, 0, 0.5) == 300);
  CHECK(fetch_interval(300, 0, 0) == 270);
  CHECK(fetch_interval(300, 0, 1) == 330);
  CHECK(fetch_interval(0, 0, 0.5) == 60);
  CHECK(fetch_interval(4'000'000'000, 0, 0.5) == 86400);
  CHECK(fetch_interval(300, 1, 0) == 1);
  CHECK(fetch_interval(300, 5, 0.5) == 16);
  CHECK(fetch_interval(300, 1000, 0.5) == 300);
}

TEST_CASE("a bundle with a lower sequence number does not replace one with a higher") {
  auto database = open_sqlite(":memory:");
  REQUIRE(database);
  auto store = Store::open(std::move(*database), "a.test");
  REQUIRE(store);
  const auto kept = [&] { return store->bundles()->at(0).document; };
  const std::string five = document("b.test", 5), six = document("b.test", 6);
  REQUIRE(store->advance_bundle({"b.test", five, 1}));
  const std::uint64_t generation = *store->generation();
  REQUIRE(store->advance_bundle({"b.test", five, 2}));
  CHECK(*store->generation() == generation);  // nobody needs to hear of it
  REQUIRE(store->advance_bundle({"b.test", six, 3}));
  CHECK(*store->generation() > generation);
  const auto back = store->advance_bundle({"b.test", five, 4});
  REQUIRE(!back);
  CHECK(back.error().problem == StoreProblem::refused);
  CHECK(!store->advance_bundle({"b.test", document("b.test", 0), 4}));
  CHECK(kept() == six);
  // Who administers this authority may.
  REQUIRE(store->set_bundle({"b.test", five, 5}));
  CHECK(kept() == five);
}
