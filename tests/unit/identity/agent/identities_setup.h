// Identities of one authority's folder, renewed by hand, with a source that can be made to fail.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "authority_folder.h"
#include "identity/agent/authority_source.h"
#include "identity/agent/identities.h"

namespace inlay::identity::agent::testing {

constexpr std::time_t kDay = 86400;

inline SpiffeId id(const std::string &path) {
  return *SpiffeId::parse("spiffe://example.org/" + path);
}

// An authority's folder as the source, with an outage and other SVIDs than it would give, on
// demand.
struct Interference {
  std::string outage{};                 // the message of all failures
  std::function<X509Svid()> instead{};  // what is given instead
  std::function<void(tl::expected<Trust, SourceFailure> &)> change_trust = [](auto &) {};
  bool issues = true;
  bool waits = false;
  int news = -1;
  int obtained = 0;  // how often it was asked
};

class InterferedSource : public Source {
 public:
  InterferedSource(std::unique_ptr<Source> source, Interference &by)
      : source_(std::move(source)), by_(by) {}
  std::string name() const override { return "the test's source"; }
  tl::expected<X509Svid, SourceFailure> obtain(const SpiffeId &of) override {
    ++by_.obtained;
    if (!by_.outage.empty()) return tl::unexpected(SourceFailure{by_.outage});
    return by_.instead ? by_.instead() : source_->obtain(of);
  }
  tl::expected<Trust, SourceFailure> trust() override {
    if (!by_.outage.empty()) return tl::unexpected(SourceFailure{by_.outage});
    auto trust = source_->trust();
    by_.change_trust(trust);
    return trust;
  }
  tl::expected<JwtSvid, SourceFailure> obtain_jwt(
      const SpiffeId &of, const std::vector<std::string> &audience) override {
    return source_->obtain_jwt(of, audience);
  }
  bool issues() const override { return by_.issues; }
  bool waits() const override { return by_.waits; }
  int news_fd() const override { return by_.news >= 0 ? by_.news : source_->news_fd(); }
  bool take_news() override {
    std::uint64_t count = 0;
    const bool ours = by_.news >= 0 && read(by_.news, &count, sizeof count) > 0;
    return source_->take_news() || ours;
  }

 private:
  std::unique_ptr<Source> source_;
  Interference &by_;
};

// Identities of one authority's folder, renewed by hand.
struct Setup {
  explicit Setup(std::vector<SpiffeId> ids = {id("web")}, Interference with = {},
                 std::time_t lifetime = 3600)
      : by(std::move(with)) {
    by.news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    auto source = open_authority({folder.path(), lifetime, {}}, clock.clock());
    REQUIRE(source);
    identities = std::make_unique<Identities>(
        std::make_unique<InterferedSource>(std::move(*source), by), std::move(ids), clock.clock());
  }
  ~Setup() {
    identities.reset();
    close(by.news);
  }

  void news() const { REQUIRE(eventfd_write(by.news, 1) == 0); }
  const IdentityState &state(const std::string &path = "web") {
    seen = identities->view();
    return seen->identities.at(id(path).uri());
  }
  // Lets `seconds` pass as the thread would: from one deadline to the next.
  void live(std::time_t seconds) {
    std::int64_t left = std::int64_t{seconds} * 1000;
    while (left > 0) {
      const std::int64_t step = std::clamp<std::int64_t>(identities->renew(), 1000, left);
      clock.pass(step / 1000);
      left -= step / 1000 * 1000;
    }
    identities->renew();
  }
  std::string why(const std::string &path = "web") {
    return why_no_svid(*identities->view(), id(path).uri(), clock.now);
  }

  AuthorityFolder folder;
  HandClock clock;
  Interference by;
  std::shared_ptr<const View> seen;
  std::unique_ptr<Identities> identities;
};

}  // namespace inlay::identity::agent::testing
