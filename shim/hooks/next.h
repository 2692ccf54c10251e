// The next definition of every hooked symbol: the C library's, or another preload's between.
// Bound once, before anything else runs; until then the few calls a binding itself may cause go
// straight to the kernel.
#pragma once

#include <aio.h>
#include <fcntl.h>
#include <netdb.h>
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>

#include "shim/hooks/list.h"

// The hooks themselves. Those the headers of the C library declare keep their exception
// specification: cancellation points may throw.
extern "C" {
#define INLAY_DECLARE(family, disposition, type, name, parameters, note) \
  __attribute__((visibility("default"))) type name parameters;
INLAY_HOOKS(INLAY_DECLARE)
#undef INLAY_DECLARE
}

namespace inlay::shim {

struct Next {
#define INLAY_MEMBER(family, disposition, type, name, parameters, note) type(*name) parameters;
  INLAY_HOOKS(INLAY_MEMBER)
#undef INLAY_MEMBER
};

// A member is null where this C library lacks the symbol.
extern Next next;

// Looks every symbol up. Calls that arrive while it runs use the kernel directly.
void bind_next() noexcept;

}  // namespace inlay::shim
