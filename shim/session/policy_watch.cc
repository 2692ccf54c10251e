#include "shim/session/policy_watch.h"

#include <sys/syscall.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "identity/spiffe_id.h"
#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/boot/state.h"
#include "shim/session/helper.h"
#include "shim/session/internal.h"
#include "shim/session/runtime.h"
#include "shim/session/socket_facts.h"

namespace inlay::shim {
namespace {

using policy::Decision;
using policy::Direction;
using policy::Mode;
using policy::Policy;
using policy::Reason;

constexpr std::int64_t kLookEveryNs = 1'000'000'000;

std::int64_t g_looked_ns = 0;
// Of the last walk over the slots.
std::int64_t g_walked_ns = 0;
const Policy *g_judged_by = nullptr;
std::shared_ptr<const identity::BundleSet> *g_trusted =
    nullptr;                // of the last walk; never destroyed
std::uint32_t g_trust = 0;  // counts what *g_trusted was; never 0 then
bool g_open = false;
bool g_news = false;

// What the policy says of the session now. What is in the clear by policy may be encrypted as well.
Reason judge(const Slot &slot, const Policy &policy, const Decision &decision, bool inbound) {
  if (decision.mode == Mode::plaintext) return Reason::allowed;
  if (decision.mode == Mode::deny) return decision.reason;
  // An ID too long for the slot is not known in full: it matches nothing.
  if (std::strlen(slot.peer_id) + 1 == sizeof(slot.peer_id)) return Reason::peer_not_allowed;
  auto peer = identity::SpiffeId::parse(slot.peer_id);
  if (!peer) return Reason::peer_not_allowed;
  return inbound ? judge_inbound(policy, decision, *peer)
                 : policy::judge_outbound_peer(policy, decision.rule, *peer);
}

std::optional<Decision> decide_inbound(const Policy &policy, int fd) noexcept {
  const std::optional<policy::Endpoint> here = own_end(fd).endpoint;
  if (!here) return std::nullopt;
  return policy::decide(policy, policy::InboundQuery{*here});
}

// Of a SPIFFE ID that may be cut off behind it.
std::string_view trust_domain_of(std::string_view id) noexcept {
  constexpr std::string_view kScheme = "spiffe://";
  if (!id.starts_with(kScheme)) return {};
  id.remove_prefix(kScheme.size());
  return id.substr(0, id.find('/'));
}

// Whether what the peer was verified by still stands. A peer that this process knows nothing of, as
// another one verified it before it took that down, stays.
Reason judge_trust(const Slot &slot, const identity::BundleSet &bundles) {
  if (slot.peer_path == identity::PathRecord{}) return Reason::allowed;
  const auto bundle = bundles.find(trust_domain_of(slot.peer_id));
  if (bundle == bundles.end()) return Reason::authority_removed;
  const auto wrong = identity::judge_again(slot.peer_path, bundle->second);
  if (!wrong) return Reason::allowed;
  return *wrong == identity::VerifyError::revoked ? Reason::certificate_revoked
                                                  : Reason::authority_removed;
}

void judge_trust_again(Slot &slot, const identity::BundleSet &trusted) {
  Locked life(slot.life_lock);
  Local &mine = local(slot);
  const int fd = static_cast<int>(mine.descriptor) - 1;
  if (life.reentered() || fd < 0 || mine.trust == g_trust ||
      slot.state.load(std::memory_order_acquire) != State::established) {
    return;
  }
  const Reason verdict = judge_trust(slot, trusted);
  mine.trust = g_trust;  // a handshake under way meanwhile went by what was trusted when it began
  if (verdict != Reason::allowed) fail_closed(slot, fd, verdict);
}

void judge_again(Slot &slot, const Policy &policy) {
  Locked life(slot.life_lock);
  if (life.reentered()) return;
  Local &mine = local(slot);
  int fd = static_cast<int>(mine.descriptor) - 1;
  if (fd < 0 || mine.policy == &policy ||
      slot.state.load(std::memory_order_acquire) != State::established) {
    return;
  }
  const bool inbound = slot.direction == Direction::inbound;
  std::optional<Decision> came_in;
  if (inbound || slot.met_client) {
    came_in = decide_inbound(policy, fd);
    if (!came_in) return;
  }
  Decision decision;
  if (inbound) {
    decision = *came_in;
  } else {
    // Who called connect() is not known any more: such rules judge new connections only.
    if (policy.needs_module() || policy.needs_frames()) return;
    if (mine.inherited && policy.needs_names()) return;  // nor by which name
    decision = decide_outbound(policy, slot.remote, nullptr);
  }
  Reason verdict = judge(slot, policy, decision, inbound);
  if (verdict == Reason::allowed && slot.met_client)
    verdict = judge(slot, policy, *came_in, true);
  slot.rule = decision.rule;
  mine.policy = &policy;
  if (verdict != Reason::allowed)
    fail_closed(slot, fd, Reason::policy_changed, policy::name(verdict));
}

// What peers are judged by now; null when that is not known.
const identity::BundleSet *trusted() noexcept try {
  auto now = trusted_now();
  if (g_trusted == nullptr) g_trusted = new std::shared_ptr<const identity::BundleSet>;
  if (now != nullptr && now != *g_trusted) {
    *g_trusted = std::move(now);
    if (++g_trust == 0) ++g_trust;
  }
  return g_trusted->get();
} catch (...) {
  return nullptr;
}

}  // namespace

Reason judge_inbound(const Policy &policy, const Decision &decision,
                     const identity::SpiffeId &peer) noexcept {
  if (decision.mode == Mode::plaintext) return Reason::allowed;
  if (decision.mode == Mode::deny) return decision.reason;
  return policy::judge_inbound_peer(policy, decision.rule, peer);
}

void note_news() noexcept { g_news = true; }

bool watch_policy() noexcept {
  std::int64_t now = monotonic_ns();
  if (now - g_looked_ns >= kLookEveryNs) {
    g_looked_ns = now;
    boot::refresh_policy();
  }
  const Policy *policy = current_policy();
  // One walk over the slots a second, unless the policy changed or the agent said something: the
  // helper wakes far more often.
  const bool news = std::exchange(g_news, false);
  if (g_open && !news && policy == g_judged_by && now - g_walked_ns < kLookEveryNs) return true;
  const bool distrust = g_open && policy != nullptr && !policy->defaults.keep_distrusted;
  const identity::BundleSet *distrusting = distrust ? trusted() : nullptr;
  g_walked_ns = now;
  g_judged_by = policy;
  bool open = false;
  for_each_slot([&](Slot &slot) {
    State state = slot.state.load(std::memory_order_acquire);
    if (local(slot).descriptor == 0 || state == State::free || state == State::failed) return;
    open = true;
    try {
      if (distrusting != nullptr) judge_trust_again(slot, *distrusting);
    } catch (...) {
      // Out of memory: the next walk tries again.
    }
    if (policy == nullptr || state != State::established || local(slot).policy == policy) return;
    try {
      judge_again(slot, *policy);
    } catch (...) {
      // Out of memory: the next look tries again.
    }
  });
  g_open = open;
  return open;
}

}  // namespace inlay::shim
