#include "shim/session/leaving.h"

#include <fcntl.h>

#include <cerrno>
#include <cstddef>
#include <ctime>

#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/boot/sandbox.h"
#include "shim/session/internal.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

// Raw: no constructor at load.
alignas(Slot) std::byte g_closing_storage[sizeof(Slot)];
alignas(Slot) std::byte g_leaving_storage[sizeof(Slot)];

// The number this thread closes, plus one: a signal's handler would wait for itself.
constinit thread_local int t_leaving = 0;

// Whoever closes may have jumped out of it, or the kernel have refused to replace the number.
constexpr int kLooks = 20'000;
constexpr timespec kBetweenLooks{0, 100'000};

Slot &failed(std::byte *storage) noexcept {
  auto *slot = reinterpret_cast<Slot *>(storage);
  slot->state.store(State::failed, std::memory_order_relaxed);
  return *slot;
}

std::uint64_t leaving_word() noexcept { return managed_word(&leaving_session()); }

}  // namespace

Slot &leaving_session() noexcept { return failed(g_leaving_storage); }
Slot &closing_session() noexcept { return failed(g_closing_storage); }

bool is_leaving(const Slot &slot) noexcept {
  return static_cast<const void *>(&slot) == static_cast<const void *>(g_leaving_storage);
}

bool is_closing(const Slot &slot) noexcept {
  return is_leaving(slot) ||
         static_cast<const void *>(&slot) == static_cast<const void *>(g_closing_storage);
}

void leaves(int fd) noexcept {
  t_leaving = fd + 1;
  set_descriptor_word(fd, leaving_word());
}

void has_left(int fd) noexcept {
  if (!replace_descriptor_word(fd, leaving_word(), kUnknown)) {
    replace_descriptor_word(fd, managed_word(&closing_session()), kUnknown);
  }
  t_leaving = 0;
}

Arrival arrival_at(int fd) noexcept {
  for (int look = 0; descriptor_word(fd) == leaving_word(); ++look) {
    if (t_leaving == fd + 1 || boot::sandboxed()) return {.error = ECONNRESET};
    if (look == kLooks) {
      replace_descriptor_word(fd, leaving_word(), managed_word(&closing_session()));
      return {.error = ECONNRESET};
    }
    if (kernel::call(SYS_fcntl, fd, F_GETFD) < 0) return {.error = EBADF};
    // close() may take its time (SO_LINGER) when the number is a file's already, which no hook saw.
    if (cookie_of(fd) == 0) return {.error = ENOTSOCK};
    kernel::call(SYS_nanosleep, kernel::word(&kBetweenLooks), 0);
  }
  if (Slot *slot = managed(fd)) return {.slot = slot};
  if (descriptor_word(fd) == kSocket) return {.slot = &unconnected_session()};
  if (kernel::call(SYS_fcntl, fd, F_GETFD) < 0) return {.error = EBADF};
  return {.error = cookie_of(fd) == 0 ? ENOTSOCK : 0};
}

}  // namespace inlay::shim
