#include "identity/agent/identities.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <optional>
#include <thread>

#include "identity/agent/judgement.h"
#include "identity/agent/waiting.h"
#include "identity/certificate.h"

// One pass of renew() for each event: time, news, other entries, a clock that was set.
//
//   nothing held ── obtained and judged good ──> current ── half its life, news, distrusted ──> due
//        ^  │                                       │  ^                                        │ │
//        │  └─ failed: again after 1 s to 30 s      │  └──── a good one: the old is previous ───┘ │
//        └───── expired, revoked, not valid yet ────┘        failed: it stays, again after <──────┘
//
// A previous SVID stays until it expires: whoever was given it may still ask for its signature.
// Deadlines of retries are on the clock that nobody sets; those of certificates are dates.
namespace inlay::identity::agent {
namespace {

constexpr std::int64_t kFirstRetry = 1000;  // milliseconds
constexpr std::int64_t kLastRetry = 30000;
constexpr double kRenewAt = 0.5;      // of what was left of its life when it was obtained
constexpr double kRenewJitter = 0.1;  // of that
constexpr std::int64_t kClockJump = 5000;
constexpr std::int64_t kLongestWait = 3600 * 1000;
constexpr std::size_t kMostPrevious = 64;

class Retry {
 public:
  // Between half the delay and all of it, so that a fleet does not come back at once.
  void failed(const Clock &clock) {
    const int doublings = std::min(failures_++, 5);
    const std::int64_t delay = std::min(kFirstRetry << doublings, kLastRetry);
    const auto drawn =
        static_cast<std::int64_t>(static_cast<double>(delay) * (0.5 + 0.5 * clock.chance()));
    at_ = clock.elapsed() + std::clamp(drawn, kFirstRetry, kLastRetry);
  }
  void clear() { *this = {}; }
  void at_once() { at_ = 0; }
  bool is_pending() const { return failures_ > 0; }
  bool is_due(std::int64_t elapsed) const { return elapsed >= at_; }
  std::int64_t at() const { return at_; }

 private:
  int failures_ = 0;
  std::int64_t at_ = 0;  // Clock::elapsed
};

struct Holding {
  SpiffeId id;
  IdentityState state;
  Retry retry;
  bool asked_for = true;  // another one is wanted whatever the present one's age
};

KeyId key_id(const X509 *certificate) {
  KeyId id{};
  unsigned char *der = nullptr;
  const int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
  if (length <= 0) return id;
  EVP_Q_digest(library_context(), "SHA256", nullptr, der, static_cast<std::size_t>(length),
               id.data(), nullptr);
  OPENSSL_free(der);
  return id;
}

std::string der_of(const X509 *certificate) {
  unsigned char *der = nullptr;
  const int length = i2d_X509(certificate, &der);
  std::string bytes(reinterpret_cast<const char *>(der),
                    static_cast<std::size_t>(std::max(length, 0)));
  OPENSSL_free(der);
  return bytes;
}

std::shared_ptr<const HeldSvid> hold(X509Svid svid, bool renews, const Clock &clock) {
  std::vector<std::string> chain;
  for (const X509Ptr &certificate : svid.chain) chain.push_back(der_of(certificate.get()));
  const KeyId id = key_id(svid.chain.front().get());
  const std::time_t now = clock.now();
  const auto left = static_cast<double>(svid.not_after - now);
  const double share = kRenewAt * (1 + kRenewJitter * (2 * clock.chance() - 1));
  const auto after = std::max<std::time_t>(static_cast<std::time_t>(left * share), 1);
  return std::make_shared<const HeldSvid>(
      HeldSvid{std::move(svid), std::move(chain), id, renews ? now + after : 0});
}

// All of it but the time of the next attempt.
bool same(const IdentityState &a, const IdentityState &b) {
  return a.current == b.current && a.previous == b.previous && a.error == b.error &&
         a.rotations == b.rotations;
}

bool same(const View &a, const View &b) {
  return a.trust_error == b.trust_error && a.clock_jump_at == b.clock_jump_at &&
         a.clock_jump == b.clock_jump && a.identities.size() == b.identities.size() &&
         std::equal(a.identities.begin(), a.identities.end(), b.identities.begin(),
                    [](const auto &one, const auto &other) {
                      return one.first == other.first && same(one.second, other.second);
                    }) &&
         a.trust == b.trust;
}

}  // namespace

struct Identities::State {
  std::unique_ptr<Source> source;
  Clock clock;
  std::mutex calling;  // the source takes one call at a time

  mutable std::mutex mutex;
  std::shared_ptr<const View> view = std::make_shared<const View>();  // under the mutex
  std::optional<std::vector<SpiffeId>> wanted;                        // under the mutex

  // Of the thread that renews.
  std::map<std::string, Holding, std::less<>> holdings;
  Judge judge;
  View next;  // what is published at the end of a pass, without its identities
  Retry trust_retry;
  bool trust_asked_for = true;
  std::optional<std::int64_t> clock_offset;
  std::vector<std::function<void()>> listeners;

  Waiting waiting;
  std::atomic<bool> ending{false};
  std::thread thread;

  void notice_clock();
  void take_wanted();
  void take_news();
  void look_at_trust();
  void expire(Holding &holding);
  void retire(Holding &holding);
  bool is_due(const Holding &holding) const;
  void obtain(Holding &holding);
  void publish();
  std::int64_t pause() const;
};

// The difference between the two clocks changes only when somebody sets one of them.
void Identities::State::notice_clock() {
  const std::int64_t offset = std::int64_t{clock.now()} * 1000 - clock.elapsed();
  const std::int64_t jump = clock_offset ? offset - *clock_offset : 0;
  clock_offset = offset;
  if (std::abs(jump) < kClockJump) return;
  next.clock_jump_at = clock.now();
  next.clock_jump = jump / 1000;
  trust_retry.at_once();
  for (auto &[uri, holding] : holdings) holding.retry.at_once();
}

void Identities::State::take_wanted() {
  std::optional<std::vector<SpiffeId>> ids;
  {
    const std::lock_guard lock(mutex);
    ids.swap(wanted);
  }
  if (!ids) return;
  std::map<std::string, Holding, std::less<>> kept;
  for (const SpiffeId &id : *ids) {
    const auto held = holdings.find(id.uri());
    kept.try_emplace(id.uri(),
                     held != holdings.end() ? std::move(held->second) : Holding{id, {}, {}, true});
  }
  holdings.swap(kept);
}

void Identities::State::take_news() {
  pollfd news{source->news_fd(), POLLIN, 0};
  if (news.fd < 0 || poll(&news, 1, 0) != 1) return;
  const std::lock_guard lock(calling);
  if (!source->take_news()) return;
  trust_asked_for = true;
  trust_retry.at_once();
  for (auto &[uri, holding] : holdings) {
    // An authority's news are other bundles, and SVIDs that these no longer cover are noticed.
    if (!source->issues()) holding.asked_for = true;
    holding.retry.at_once();
  }
}

void Identities::State::look_at_trust() {
  if (!trust_asked_for || !trust_retry.is_due(clock.elapsed())) return;
  auto trust = [&] {
    const std::lock_guard lock(calling);
    return source->trust();
  }();
  if (!trust) {
    next.trust_error = std::move(trust.error().message);
    trust_retry.failed(clock);
    return;
  }
  trust_asked_for = false;
  trust_retry.clear();
  next.trust_error.clear();
  if (*trust == next.trust) return;
  next.trust = std::move(*trust);
  judge = Judge(next.trust);
  for (auto &[uri, holding] : holdings) {
    // What is held, or was refused, may be judged otherwise now.
    holding.retry.at_once();
    const auto &current = holding.state.current;
    if (!current) continue;
    std::string complaint = judge.trust_complaint(current->svid, clock.now());
    if (complaint.empty() && judge.is_tainted(current->svid, clock.now())) {
      complaint = "its authority is about to leave the bundle";
    }
    if (complaint.empty()) continue;
    holding.state.error = fmt::format("the SVID of {} is to be replaced: {}", uri, complaint);
    holding.asked_for = true;
  }
}

void Identities::State::expire(Holding &holding) {
  const std::time_t now = clock.now();
  IdentityState &state = holding.state;
  std::erase_if(state.previous, [&](const auto &held) {
    return held->svid.not_after <= now || judge.is_revoked(held->svid);
  });
  if (state.current) retire(holding);
  if (state.current) return;
  const auto valid =
      std::find_if(state.previous.begin(), state.previous.end(),
                   [&](const auto &held) { return date_complaint(held->svid, now).empty(); });
  if (valid == state.previous.end()) return;
  state.current = *valid;
  state.previous.erase(valid);
}

// Takes the current SVID out of use when it is not to be used now.
void Identities::State::retire(Holding &holding) {
  const std::time_t now = clock.now();
  IdentityState &state = holding.state;
  const bool revoked = judge.is_revoked(state.current->svid);
  const std::string complaint =
      revoked ? "it is revoked by a CRL" : date_complaint(state.current->svid, now);
  if (complaint.empty()) return;
  if (state.error.empty()) {
    state.error = fmt::format("the SVID of {} is of no use: {}", holding.id.uri(), complaint);
  }
  holding.asked_for = true;
  holding.retry.at_once();
  // One that is not valid yet was so before somebody set the clock, and may be so again.
  if (!revoked && state.current->svid.not_after > now) {
    state.previous.insert(state.previous.begin(), state.current);
  }
  state.current.reset();
}

bool Identities::State::is_due(const Holding &holding) const {
  if (!holding.retry.is_due(clock.elapsed())) return false;
  const auto &current = holding.state.current;
  return holding.asked_for || !current ||
         (current->renew_at != 0 && current->renew_at <= clock.now());
}

void Identities::State::obtain(Holding &holding) {
  IdentityState &state = holding.state;
  auto svid = [&] {
    const std::lock_guard lock(calling);
    return source->obtain(holding.id);
  }();
  std::string complaint =
      svid ? judge.complaint(*svid, holding.id, clock.now()) : std::move(svid.error().message);
  if (!complaint.empty()) {
    if (svid) {
      complaint = fmt::format("the SVID that {} gave for {} is not taken: {}", source->name(),
                              holding.id.uri(), complaint);
    }
    state.error = std::move(complaint);
    holding.retry.failed(clock);
    return;
  }
  state.error.clear();
  // A replica of the authority may not have heard of it yet.
  holding.asked_for = judge.is_tainted(*svid, clock.now());
  if (holding.asked_for) {
    holding.retry.failed(clock);
  } else {
    holding.retry.clear();
  }
  auto held = hold(std::move(*svid), source->issues(), clock);
  if (state.current && state.current->chain == held->chain) return;  // the same once more
  if (state.current) {
    state.previous.insert(state.previous.begin(), state.current);
    if (state.previous.size() > kMostPrevious) state.previous.pop_back();
    ++state.rotations;
  }
  state.current = std::move(held);
}

void Identities::State::publish() {
  auto made = std::make_shared<View>(next);
  for (auto &[uri, holding] : holdings) {
    IdentityState &state = holding.state;
    const std::int64_t wait = holding.retry.at() - clock.elapsed();
    state.next_attempt = holding.retry.is_pending()
                             ? clock.now() + std::max<std::int64_t>(wait, 0) / 1000
                         : state.current ? state.current->renew_at
                                         : 0;
    made->identities.emplace(uri, state);
  }
  bool changed = false;
  {
    const std::lock_guard lock(mutex);
    changed = !same(*view, *made);
    next.generation = made->generation = view->generation + (changed ? 1 : 0);
    view = std::move(made);
  }
  if (!changed) return;
  for (const auto &listener : listeners) listener();
}

std::int64_t Identities::State::pause() const {
  const std::int64_t elapsed = clock.elapsed();
  const std::time_t now = clock.now();
  std::int64_t wait = kLongestWait;
  const auto until = [&](std::time_t date) {
    wait = std::min(wait, std::max<std::int64_t>(date - now, 0) * 1000);
  };
  const auto until_retry = [&](const Retry &retry) {
    wait = std::min(wait, std::max<std::int64_t>(retry.at() - elapsed, 0));
  };
  if (trust_asked_for) until_retry(trust_retry);
  for (const auto &[uri, holding] : holdings) {
    const IdentityState &state = holding.state;
    if (holding.retry.is_pending()) until_retry(holding.retry);
    if (state.current) until(state.current->svid.not_after);
    if (state.current && state.current->renew_at != 0 && !holding.retry.is_pending()) {
      until(state.current->renew_at);
    }
    for (const auto &previous : state.previous) until(previous->svid.not_after);
  }
  return wait;
}

Identities::Identities(std::unique_ptr<Source> source, std::vector<SpiffeId> ids, Clock clock)
    : state_(std::make_unique<State>()) {
  state_->source = std::move(source);
  state_->clock = std::move(clock);
  state_->wanted = std::move(ids);
  if (!state_->source->waits()) renew();
}

Identities::~Identities() {
  state_->ending = true;
  state_->waiting.wake();
  if (state_->thread.joinable()) state_->thread.join();
}

std::shared_ptr<const View> Identities::view() const {
  const std::lock_guard lock(state_->mutex);
  return state_->view;
}

void Identities::on_change(std::function<void()> changed) {
  state_->listeners.push_back(std::move(changed));
}

void Identities::start() {
  state_->thread = std::thread([this] {
    while (!state_->ending) {
      std::int64_t pause = kFirstRetry;
      try {
        pause = renew();
      } catch (const std::bad_alloc &) {
        // What is published stays in force; perhaps there is memory in a second.
      }
      state_->waiting.wait(pause, state_->source->news_fd());
    }
  });
}

std::int64_t Identities::renew() {
  State &state = *state_;
  const ErrorMark mark;
  state.notice_clock();
  state.take_wanted();
  state.take_news();
  state.look_at_trust();
  for (auto &[uri, holding] : state.holdings) {
    state.expire(holding);
    if (state.is_due(holding)) state.obtain(holding);
  }
  state.publish();
  return state.pause();
}

void Identities::want(std::vector<SpiffeId> ids) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->wanted = std::move(ids);
  }
  state_->waiting.wake();
}

tl::expected<JwtSvid, SourceFailure> Identities::obtain_jwt(
    const SpiffeId &id, const std::vector<std::string> &audience) {
  const std::lock_guard lock(state_->calling);
  return state_->source->obtain_jwt(id, audience);
}

std::string Identities::source_name() const { return state_->source->name(); }

std::string why_no_svid(const View &view, std::string_view id, std::time_t now) {
  const auto found = view.identities.find(id);
  if (found == view.identities.end()) return fmt::format("no entry has the ID {}", id);
  const IdentityState &state = found->second;
  if (!state.current) {
    return state.error.empty() ? fmt::format("no SVID of {} was obtained yet", id) : state.error;
  }
  const std::string dates = date_complaint(state.current->svid, now);
  if (dates.empty() || state.error.empty()) return dates;
  return fmt::format("{}; {}", dates, state.error);
}

}  // namespace inlay::identity::agent
