#include "shim/session/runtime.h"

#include <cstring>
#include <ctime>
#include <new>
#include <utility>

#include "identity/file_source.h"
#include "identity/memory.h"
#include "shim/arena/arena.h"
#include "shim/boot/log.h"
#include "shim/boot/state.h"
#include "shim/session/agent_link.h"
#include "shim/session/agent_wishes.h"
#include "shim/session/helper.h"

namespace inlay::shim {
namespace {

constexpr std::int64_t kLookEveryNs = 1'000'000'000;

// The identity this process uses. The helper thread's own.
struct Identity {
  explicit Identity(identity::FilePaths paths) : source(std::move(paths)) {}
  identity::FileSource source;
  std::shared_ptr<const identity::Material> material;
  std::shared_ptr<const tls::Credentials> credentials;
  std::string error;
  std::int64_t looked_ns = 0;
};

Identity *g_identity = nullptr;
const policy::Policy *g_identity_policy = nullptr;  // whose paths g_identity follows

identity::FilePaths paths_of(const policy::Policy &policy) {
  identity::FilePaths paths;
  paths.svid = policy.identity.svid;
  paths.key = policy.identity.key;
  paths.bundle = policy.identity.bundle;
  paths.trust_domain = policy.trust_domain;
  paths.further_bundles = policy.identity.further_bundles;
  paths.crl = policy.identity.crl;
  paths.accept_stale_crls = policy.identity.accept_stale_crl;
  return paths;
}

void look_at_files(Identity &identity) {
  identity.source.refresh();
  std::shared_ptr<const identity::Material> material = identity.source.current();
  if (material == nullptr) {
    identity.error = identity.source.last_error();
    return;
  }
  if (material == identity.material) return;
  auto made = tls::Credentials::make(material);
  if (!made) {
    identity.error = made.error();
    return;
  }
  identity.credentials = std::move(*made);
  identity.material = std::move(material);
  boot::log_own_id(identity.material->svid.id.uri());
  note_own_id(identity.material->svid.id.uri());
}

void refresh(Identity &identity) {
  std::int64_t now = monotonic_ns();
  if (identity.looked_ns != 0 && now - identity.looked_ns < kLookEveryNs) return;
  identity.looked_ns = now;
  const identity::MemoryWatch watch;
  look_at_files(identity);
  if (!watch.ran_out()) return;
  identity.looked_ns = 0;  // the next one may have memory
  if (identity.credentials == nullptr) throw std::bad_alloc();
}

}  // namespace

const policy::Policy *current_policy() noexcept {
  const policy::Policy *policy = boot::policy();
  if (policy == nullptr && boot::policy_is_the_agents()) want_agent_policy();
  return policy;
}

void remember_identity() noexcept {
  const policy::Policy *policy = current_policy();
  if (policy == nullptr || !policy->identity.agent.empty()) return;
  try {
    g_identity = new Identity(paths_of(*policy));
    g_identity_policy = policy;
    g_identity->source.remember();
  } catch (...) {
    // Out of memory: the first handshake tries the files.
  }
}

OwnIdentity current_identity() noexcept {
  OwnIdentity own;
  own.reason = policy::Reason::identity_unreadable;
  try {
    const policy::Policy *policy = current_policy();
    if (policy == nullptr) {
      own.reason = policy::Reason::policy_unreadable;
      return own;
    }
    if (!policy->identity.agent.empty()) {
      delete std::exchange(g_identity, nullptr);  // and with it a key from files
      return agent_identity(policy->identity.agent);
    }
    if (g_identity == nullptr || g_identity_policy->identity != policy->identity) {
      delete g_identity;
      g_identity = nullptr;
      g_identity = new Identity(paths_of(*policy));
      g_identity_policy = policy;
    }
    refresh(*g_identity);
    own.why = g_identity->error;
    own.credentials = g_identity->credentials;
    if (own.credentials != nullptr)
      own.bundles = {own.credentials, &own.credentials->material().bundles};
  } catch (...) {
    own.reason = policy::Reason::out_of_resources;
  }
  return own;
}

std::shared_ptr<const identity::BundleSet> trusted_now() noexcept {
  return current_identity().bundles;
}

}  // namespace inlay::shim
