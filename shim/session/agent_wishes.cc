#include "shim/session/agent_wishes.h"

#include <linux/futex.h>

#include <atomic>
#include <cstdint>
#include <ctime>

#include "shim/arena/kernel.h"
#include "shim/boot/state.h"
#include "shim/session/helper.h"
#include "shim/session/internal.h"

namespace inlay::shim {
namespace {

constexpr std::int64_t kAskAgainNs = 1'000'000'000;
constexpr std::int64_t kPatienceNs = 5'000'000'000;

std::atomic<bool> g_policy{false};
std::atomic<std::int64_t> g_policy_asked_ns{0};
// Stored after the wish and before the look whether the helper sleeps, which it says before it
// looks here: one of the two sees the other.
std::atomic<bool> g_fresh{false};

enum Kept : std::uint32_t { not_kept, kept_asking, kept };
std::atomic<std::uint32_t> g_kept{not_kept};  // a futex

void tell_helper() noexcept {
  g_fresh.store(true, std::memory_order_seq_cst);
  wake_helper();
}

}  // namespace

std::string_view agent_socket() noexcept {
  const policy::Policy *policy = boot::policy();
  if (policy != nullptr) return policy->identity.agent;
  return boot::policy_is_the_agents() ? std::string_view(boot::policy_agent()) : "";
}

void keep_agent_link() noexcept {
  if (agent_socket().empty()) return;
  std::uint32_t before = not_kept;
  g_kept.compare_exchange_strong(before, kept_asking, std::memory_order_acq_rel);
  tell_helper();
  const std::int64_t until = monotonic_ns() + kPatienceNs;
  while (g_kept.load(std::memory_order_acquire) == kept_asking) {
    const std::int64_t left = until - monotonic_ns();
    if (left <= 0) return;
    const timespec timeout{left / 1'000'000'000, left % 1'000'000'000};
    kernel::call(SYS_futex, kernel::word(&g_kept), FUTEX_WAIT_PRIVATE, kept_asking,
                 kernel::word(&timeout));
  }
}

void want_agent_policy() noexcept {
  const std::int64_t now = monotonic_ns();
  std::int64_t last = g_policy_asked_ns.load(std::memory_order_relaxed);
  if (last != 0 && now - last < kAskAgainNs) return;
  if (!g_policy_asked_ns.compare_exchange_strong(last, now, std::memory_order_relaxed)) return;
  g_policy.store(true, std::memory_order_release);
  tell_helper();
}

AgentWishes take_agent_wishes() noexcept {
  g_fresh.store(false, std::memory_order_seq_cst);
  return {.policy = g_policy.exchange(false, std::memory_order_acq_rel),
          .link = g_kept.load(std::memory_order_acquire) != not_kept};
}

bool has_agent_wishes() noexcept { return g_fresh.load(std::memory_order_seq_cst); }

void agent_link_settled() noexcept {
  std::uint32_t asking = kept_asking;
  if (!g_kept.compare_exchange_strong(asking, kept, std::memory_order_acq_rel)) return;
  kernel::call(SYS_futex, kernel::word(&g_kept), FUTEX_WAKE_PRIVATE, 1 << 30);
}

void forget_agent_wishes() noexcept { g_kept.store(not_kept, std::memory_order_relaxed); }

}  // namespace inlay::shim
