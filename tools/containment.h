// `inlay run --strict`: a seccomp filter that holds what goes past the hooks of libinlay.so.
#pragma once

#include <linux/filter.h>

#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace inlay::tools {

// What the filter does, for this machine:
//
//   socket(AF_INET or AF_INET6, SOCK_STREAM)    EACCES, but from the gate page of libinlay.so
//   accept, accept4                             EACCES, but from there
//   socket(AF_SMC)                              EAFNOSUPPORT: it becomes TCP by itself
//   MSG_FASTOPEN, TCP_FASTOPEN_CONNECT          EOPNOTSUPP: a connect that no hook sees
//   io_uring_setup, _enter, _register           ENOSYS
//   32-bit: socketcall's socket and accept      EACCES;  x32: everything ENOSYS
//
// Everything else is allowed: datagrams, Unix sockets, and connect(), of which a filter sees neither the
// address nor the kind of socket (shim/session/contained.h).
std::vector<sock_filter> containment_filter();

// True when this process has the filter already.
bool is_contained();

// Sets no_new_privs and installs the filter: for this thread and all it starts or executes, for
// good. The error is one line.
tl::expected<void, std::string> contain();

// What it costs, on one line, for the person who asked for it.
inline constexpr char kContainmentCost[] =
    "--strict: sudo, ping and all that relies on set-user-ID or file capabilities gains no "
    "privilege from here on; io_uring is off";

}  // namespace inlay::tools
