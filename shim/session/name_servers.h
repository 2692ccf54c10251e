// The C library's resolver asks name servers over sockets of its own that no hook sees. Datagrams
// are none of inlay's business. TCP is: unless policy lets connections to every name server through
// in the clear, a look-up may not turn to it. An answer that was cut short stands as it is
// (RES_IGNTC); where TCP is all that is allowed (`options use-vc`), no name server is asked:
// /etc/hosts still answers, the rest is EAI_AGAIN.
#pragma once

#include <netinet/in.h>
#include <resolv.h>

#include "policy/policy.h"

namespace inlay::shim {

class NameServers {
 public:
  // For one look-up, until end(); `state` null: the calling thread's own. `long_query`: too long
  // for a datagram.
  explicit NameServers(res_state state = nullptr, bool long_query = false) noexcept;
  NameServers(const NameServers &) = delete;
  NameServers &operator=(const NameServers &) = delete;

  // Not a destructor's: the thread may be cancelled in the look-up (session/cancel.h).
  void end() noexcept;

  // Only datagrams may be used.
  bool limited() const noexcept { return state_ != nullptr; }
  // The look-up came to nothing: logs it if that is this object's doing.
  void came_to_nothing() noexcept;

 private:
  bool may_use_tcp(res_state state) noexcept;

  res_state state_ = nullptr;  // changed for the time being
  unsigned long options_ = 0;
  int count_ = 0;
  bool refused_ = false;
  policy::Decision decision_{};
  sockaddr_in6 server_{};  // of either family
};

}  // namespace inlay::shim
