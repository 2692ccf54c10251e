// What this process knows that is not of one session: the policy in force, learned names, the
// identity handshakes use.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "policy/policy.h"
#include "tls/handshake.h"

namespace inlay::shim {

struct OwnIdentity {
  std::shared_ptr<const tls::Credentials> credentials;
  std::array<std::uint8_t, 32> key{};  // what the agent signs with; of credentials from an agent
  // What peers of open sessions are judged by; it may be there without credentials.
  std::shared_ptr<const identity::BundleSet> bundles;
  // Without credentials: the agent has been asked (agent_link.h), or why there are none.
  bool pending = false;
  policy::Reason reason = policy::Reason::none;
  std::string why;
};

// The policy in force, looked at anew at most once a second; null when none was ever readable: then
// every connection fails closed. Lock-free; the result stays valid for the life of the process.
const policy::Policy *current_policy() noexcept;

// At start, with one thread: reads the identity's files while the process still can. Programs
// chroot and drop their user before their first connection.
void remember_identity() noexcept;

// What handshakes use now. The helper thread only. Looks for replaced files at most once a second.
OwnIdentity current_identity() noexcept;

// The bundles now in force, looked at anew. Null before there are any. The helper thread only.
std::shared_ptr<const identity::BundleSet> trusted_now() noexcept;

// Outbound decision for `remote`, with what the process resolved and who calls.
policy::Decision decide_outbound(const policy::Policy &policy, const policy::Endpoint &remote,
                                 const void *caller) noexcept;

}  // namespace inlay::shim
