// What this process knows that is not of one session: the policy in force, learned names, the
// identity handshakes use.
#pragma once

#include <memory>

#include "policy/policy.h"
#include "tls/handshake.h"

namespace inlay::shim {

// The policy in force, looked at anew at most once a second; null when none was ever readable: then
// every connection fails closed. Lock-free; the result stays valid for the life of the process.
const policy::Policy *current_policy() noexcept;

// At start, with one thread: reads the identity's files while the process still can. Programs chroot
// and drop their user before their first connection.
void remember_identity() noexcept;

// What handshakes use now; null with a one-line reason when the identity cannot be used. The helper
// thread only. Looks for replaced files at most once a second.
std::shared_ptr<const tls::Credentials> current_credentials(const char **why) noexcept;

// Outbound decision for `remote`, with what the process resolved and who calls.
policy::Decision decide_outbound(const policy::Policy &policy, const policy::Endpoint &remote,
                                 const void *caller) noexcept;

}  // namespace inlay::shim
