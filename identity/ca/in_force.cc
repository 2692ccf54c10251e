#include "identity/ca/in_force.h"

#include <chrono>
#include <optional>
#include <utility>

#include "identity/certificate.h"
#include "identity/trust_domain_bundle.h"

namespace inlay::identity::ca {
namespace {

constexpr std::time_t kMaintainEvery = 60;  // seconds
constexpr int kTellEvery = 60;              // looks

}  // namespace

tl::expected<std::unique_ptr<InForceKeeper>, std::string> InForceKeeper::open(
    Store &store, const Seal &seal, InForceSettings settings, Note note) {
  std::unique_ptr<InForceKeeper> keeper(
      new InForceKeeper(store, seal, std::move(settings), std::move(note)));
  if (auto looked = keeper->look(std::time(nullptr)); !looked) {
    return tl::unexpected(looked.error());
  }
  return keeper;
}

InForceKeeper::~InForceKeeper() { stop(); }

void InForceKeeper::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<const InForce> InForceKeeper::now() const {
  const std::lock_guard lock(mutex_);
  return in_force_;
}

tl::expected<std::shared_ptr<const InForce>, std::string> InForceKeeper::load(
    std::uint64_t generation, std::time_t now) {
  const auto rows = store_.authorities();
  if (!rows) return tl::unexpected(rows.error().message);
  std::optional<Authority> upstream;
  if (!settings_.upstream.empty()) {
    auto loaded = load_upstream(settings_.upstream, settings_.rotation.trust_domain);
    if (!loaded) return tl::unexpected(loaded.error());
    upstream = std::move(*loaded);
  }
  auto signer =
      Signer::open(*rows, generation, seal_, settings_.rotation.trust_domain, std::move(upstream));
  if (!signer) return tl::unexpected(signer.error());
  const auto revoked = store_.revoked(now);
  if (!revoked) return tl::unexpected(revoked.error().message);
  auto crls = signer->crls(*revoked, now, settings_.crl_lifetime);
  if (!crls) return tl::unexpected(crls.error());
  const auto others = store_.bundles();
  if (!others) return tl::unexpected(others.error().message);
  std::map<std::string, std::string> bundles;
  for (const FederatedBundle &other : *others) {
    // It was read when it was set; a document is handed on in the form that all understand.
    if (auto bundle = parse_trust_domain_bundle(other.document)) {
      bundles[other.trust_domain] = bundle_document(*bundle);
    }
  }
  bundles[settings_.rotation.trust_domain] = bundle_document(signer->bundle());
  auto trusted = signer->bundle_set(*crls);
  return std::make_shared<const InForce>(InForce{std::move(*signer), std::move(*crls),
                                                 now + settings_.crl_lifetime, std::move(bundles),
                                                 std::move(trusted)});
}

void InForceKeeper::name_what_ends(std::time_t now) {
  Ending first;
  if (settings_.rotation.upstream) {
    for (const std::string &der : this->now()->signer.intermediates()) {
      const X509Ptr certificate =
          certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
      const auto end = certificate ? to_time(X509_get0_notAfter(certificate.get())) : std::nullopt;
      if (!end) continue;
      Ending one = ending("the intermediate of [upstream]", "have its issuer renew it", *end, now);
      if (one.step > first.step) first = std::move(one);
    }
  } else if (const auto rows = store_.authorities()) {
    first = ending_root(*rows, now);
  }
  if (first.step > ending_step_) note_(first.text);
  ending_step_ = first.step;
}

tl::expected<bool, std::string> InForceKeeper::look(std::time_t now) {
  const bool maintains = now - maintained_at_ >= kMaintainEvery || now < maintained_at_;
  if (maintains) {
    const auto rows = store_.authorities();
    if (!rows) return tl::unexpected(rows.error().message);
    if (due(*rows, settings_.rotation, now)) {
      const auto changed = store_.change_authorities([&](std::vector<AuthorityRow> &all) {
        return maintain(all, seal_, settings_.rotation, now);
      });
      if (!changed) return tl::unexpected(changed.error().message);
    }
    (void)store_.forget_ended(now);  // on a full disk in a minute; nothing waits for it
    maintained_at_ = now;
  }
  const auto fresh = renew(now);
  if (fresh && maintains) name_what_ends(now);
  return fresh;
}

tl::expected<bool, std::string> InForceKeeper::renew(std::time_t now) {
  // Before what it counts is read: what changes in between is seen at the next look.
  const auto generation = store_.generation();
  if (!generation) return tl::unexpected(generation.error().message);
  const auto held = this->now();
  const bool stale = !held || held->crls_until - now < settings_.crl_lifetime / 2 ||
                     held->crls_until - now > settings_.crl_lifetime;
  if (held && held->signer.generation() == *generation && !stale) return false;
  auto fresh = load(*generation, now);
  if (!fresh) return tl::unexpected(fresh.error());
  const std::lock_guard lock(mutex_);
  in_force_ = std::move(*fresh);
  return true;
}

void InForceKeeper::start(std::function<void()> changed) {
  changed_ = std::move(changed);
  thread_ = std::thread([this] { run(); });
}

void InForceKeeper::run() {
  for (int looks = 1;; ++looks) {
    {
      std::unique_lock lock(mutex_);
      if (wake_.wait_for(lock, std::chrono::seconds(1), [this] { return ending_; })) return;
    }
    const auto looked = look(std::time(nullptr));
    const std::string problem = looked ? "" : looked.error();
    if (problem != std::exchange(problem_, problem) && !problem.empty()) note_(problem);
    // Once in a while in any case: SVIDs of those who watch may have ended.
    if ((looked && *looked) || looks % kTellEvery == 0) changed_();
  }
}

}  // namespace inlay::identity::ca
