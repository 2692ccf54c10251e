// What a clock that is set does to the identities.
#include "identities_setup.h"
#include "identity/certificate.h"

using namespace inlay::identity;
using namespace inlay::identity::agent;
using namespace inlay::identity::agent::testing;

TEST_CASE("T65 the clock set a day ahead: what expired by it is replaced at once") {
  Setup setup;
  const auto before = setup.state().current;
  setup.clock.set(setup.clock.now + kDay);
  setup.identities->renew();
  REQUIRE(setup.state().current);
  CHECK(setup.state().current != before);
  CHECK(setup.state().current->svid.not_after == setup.clock.now + 3600);
  CHECK(setup.identities->view()->clock_jump == kDay);
  CHECK(setup.identities->view()->clock_jump_at == setup.clock.now);

  // And set right again: an SVID of tomorrow is of no use today.
  setup.clock.set(setup.clock.now - kDay);
  setup.identities->renew();
  REQUIRE(setup.state().current);
  CHECK(setup.state().current->svid.not_before <= setup.clock.now);
  CHECK(setup.identities->view()->clock_jump == -kDay);
}

TEST_CASE("T65 the clock set a day back while the source is down: refused, with both clocks") {
  Setup setup;
  const auto before = setup.state().current;
  setup.by.outage = "down";
  setup.clock.set(setup.clock.now - kDay);
  setup.identities->renew();
  CHECK_FALSE(setup.state().current);
  // Whoever was given it may still use it: the peers' clocks may be right.
  CHECK(setup.state().previous.size() == 1);
  CHECK_FALSE(setup.why().empty());

  // The clock is right again: so is the SVID.
  setup.clock.set(setup.clock.now + kDay);
  setup.identities->renew();
  CHECK(setup.state().current == before);
  CHECK(setup.why().empty());
}

TEST_CASE("T65 a clock that is set ends the wait for a retry, in either direction") {
  for (const std::time_t jump : {kDay, -kDay}) {
    CAPTURE(jump);
    Setup setup({id("web")}, {.outage = "down"});
    setup.live(300);
    const int asked = setup.by.obtained;
    setup.clock.set(setup.clock.now + jump);
    setup.identities->renew();
    CHECK(setup.by.obtained == asked + 1);
    // The wait that follows is not of the day's length.
    CHECK(setup.identities->renew() <= 30000);
  }
}

TEST_CASE("a clock that drifts or is disciplined is not a clock that was set") {
  Setup setup;
  for (int hour = 0; hour < 24; ++hour) {
    setup.clock.pass(3600);
    setup.clock.set(setup.clock.now + 2);
    setup.identities->renew();
  }
  CHECK(setup.identities->view()->clock_jump_at == 0);
}

TEST_CASE("what is held expires even when nobody renews in time: both clocks are said") {
  Setup setup;
  const auto view = setup.identities->view();
  const std::time_t end = setup.state().current->svid.not_after;
  const std::string uri = id("web").uri();
  CHECK(why_no_svid(*view, uri, end - 1).empty());
  const std::string expired = why_no_svid(*view, uri, end);
  CHECK(expired.find(time_text(end)) != std::string::npos);
  CHECK(expired.find("the clock here says") != std::string::npos);
  const std::string early = why_no_svid(*view, uri, setup.clock.now - kDay);
  CHECK(early.find("valid from") != std::string::npos);
  CHECK(early.find(time_text(setup.clock.now - kDay)) != std::string::npos);
}
