#include "tls/verified_chains.h"

#include <doctest/doctest.h>

#include "certificates.h"
#include "stock_peer.h"

namespace inlay::tls {
namespace {

using test::world;

identity::SpiffeId id(const char *uri) { return *identity::SpiffeId::parse(uri); }

struct Case {
  const char *what;
  std::time_t leaf_ends;       // after now, seconds
  std::time_t authority_ends;
  std::time_t asked;           // after now, seconds
  bool found;
};

TEST_CASE("a verified chain is known only while every certificate of its path is valid") {
  const std::time_t now = testing::now();
  for (const Case &c : {Case{"at once", 3600, 7200, 0, true},
                        Case{"later", 3600, 7200, 3599, true},
                        Case{"after the leaf", 3600, 7200, 3600, false},
                        Case{"after the authority", 3600, 1800, 1800, false},
                        Case{"clock set back", 3600, 7200, -1, false}}) {
    CAPTURE(c.what);
    testing::Knobs of_authority;
    of_authority.not_after = now + c.authority_ends;
    testing::Knobs of_leaf;
    of_leaf.not_after = now + c.leaf_ends;
    auto authority = testing::make_authority("example.org", of_authority);
    auto leaf = testing::issue(authority, "spiffe://example.org/app", of_leaf);
    auto chain = testing::stack_of(leaf);
    auto bundles = testing::bundles_of({{"example.org", authority.certificate.get()}});
    auto digest = VerifiedChains::digest(chain.get());
    REQUIRE(digest);
    VerifiedChains cache;
    CHECK_FALSE(cache.find(*digest, now));
    cache.remember(*digest, chain.get(), bundles, {id("spiffe://example.org/app"), {}}, now);
    CHECK(cache.find(*digest, now + c.asked).has_value() == c.found);
  }
}

TEST_CASE("chains that differ in one certificate have digests of their own") {
  auto app = testing::stack_of(world().app);
  auto redis = testing::stack_of(world().redis);
  CHECK(VerifiedChains::digest(app.get()) != VerifiedChains::digest(redis.get()));
  auto longer = testing::stack_of(world().app);
  X509_up_ref(world().redis.certificate.get());
  sk_X509_push(longer.get(), world().redis.certificate.get());
  CHECK(VerifiedChains::digest(app.get()) != VerifiedChains::digest(longer.get()));
  CHECK_FALSE(VerifiedChains::digest(identity::X509StackPtr(sk_X509_new_null()).get()));
}

TEST_CASE("a full cache forgets the oldest chains and stays right") {
  VerifiedChains cache;
  auto chain = testing::stack_of(world().app);
  const std::time_t now = testing::now();
  VerifiedChains::Digest digest{};
  for (unsigned i = 0; i < 300; ++i) {
    digest[0] = static_cast<std::uint8_t>(i);
    digest[1] = static_cast<std::uint8_t>(i >> 8);
    cache.remember(digest, chain.get(), world().bundles(), {id("spiffe://example.org/app"), {}}, now);
  }
  CHECK(cache.find(digest, now));
  CHECK_FALSE(cache.find({}, now));
}

}  // namespace
}  // namespace inlay::tls
