#include "shim/session/name_servers.h"

#include <arpa/nameser.h>

#include <cerrno>
#include <cstring>

#include "policy/log_record.h"
#include "shim/boot/level.h"
#include "shim/session/internal.h"
#include "shim/session/runtime.h"

namespace inlay::shim {
namespace {

// As a look-up begins: reads the configuration if nothing has, or if it changed. With options that
// are not the configuration's the C library would take it for the program's own, and leave it.
void bring_up_to_date() noexcept {
  unsigned char query[NS_PACKETSZ];
  res_mkquery(ns_o_query, ".", ns_c_in, ns_t_a, nullptr, 0, nullptr, query, sizeof query);
}

}  // namespace

NameServers::NameServers(res_state state, bool long_query) noexcept {
  if (!boot::active()) return;
  int saved = errno;
  if (state == nullptr) {
    bring_up_to_date();
    state = __res_state();
  }
  if (!may_use_tcp(state)) {
    state_ = state;
    options_ = state->options;
    count_ = state->nscount;
    refused_ = long_query || (state->options & RES_USEVC) != 0;
    if (refused_) {
      state->nscount = 0;
    } else {
      state->options |= RES_IGNTC;
    }
  }
  errno = saved;
}

void NameServers::end() noexcept {
  if (state_ == nullptr) return;
  if (refused_) {
    state_->nscount = count_;
  } else {
    state_->options =
        (state_->options & ~static_cast<unsigned long>(RES_IGNTC)) | (options_ & RES_IGNTC);
  }
}

bool NameServers::may_use_tcp(res_state state) noexcept {
  const policy::Policy *policy = current_policy();
  for (int i = 0; i < state->nscount; ++i) {
    const sockaddr_in6 *other = state->_u._ext.nsaddrs[i];
    bool is_other = state->nsaddr_list[i].sin_family == 0 && other != nullptr;
    std::memcpy(&server_, is_other ? static_cast<const void *>(other) : &state->nsaddr_list[i],
                is_other ? sizeof *other : sizeof state->nsaddr_list[i]);
    auto remote =
        policy::Endpoint::from_sockaddr(reinterpret_cast<sockaddr *>(&server_), sizeof server_);
    if (policy == nullptr || !remote) {
      decision_.reason = policy::Reason::policy_unreadable;
      return false;
    }
    decision_ = decide_outbound(*policy, *remote, nullptr);
    if (decision_.mode != policy::Mode::plaintext) return false;
  }
  return true;
}

void NameServers::came_to_nothing() noexcept {
  if (!refused_) return;
  int saved = errno;
  // What a rule would protect, the resolver's own sockets cannot be.
  auto reason = decision_.mode == policy::Mode::strict ? policy::Reason::unsupported_socket
                                                       : decision_.reason;
  report_address(-1, policy::Event::refused, reason, decision_.rule,
                 reinterpret_cast<const sockaddr *>(&server_), sizeof server_);
  errno = saved;
}

}  // namespace inlay::shim
