// Sessions that do nothing yet: every connection stays as the kernel made it.

#include <sys/mman.h>

#include "shim/arena/descriptors.h"
#include "shim/boot/level.h"
#include "shim/hooks/hook.h"
#include "shim/session/session.h"

namespace inlay::shim {

[[gnu::weak]] std::atomic<std::uint64_t> *g_descriptor_words = nullptr;

[[gnu::weak]] bool make_descriptor_table() noexcept {
  void *base = mmap(nullptr, kDescriptorLimit * sizeof(std::uint64_t), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return false;
  g_descriptor_words = static_cast<std::atomic<std::uint64_t> *>(base);
  return true;
}
[[gnu::weak]] Slot *probe_descriptor(int fd) noexcept {
  if (boot::active()) set_descriptor_word(fd, kUnmanaged);
  return nullptr;
}
[[gnu::weak]] void forget_descriptor(int fd) noexcept { set_descriptor_word(fd, kUnknown); }
[[gnu::weak]] std::uint64_t descriptor_word(int fd) noexcept {
  if (g_descriptor_words == nullptr || static_cast<unsigned>(fd) >= kDescriptorLimit) return 0;
  return g_descriptor_words[fd].load(std::memory_order_acquire);
}
[[gnu::weak]] void set_descriptor_word(int fd, std::uint64_t word) noexcept {
  if (g_descriptor_words == nullptr || static_cast<unsigned>(fd) >= kDescriptorLimit) return;
  g_descriptor_words[fd].store(word, std::memory_order_release);
}

[[gnu::weak]] int connect_socket(int fd, const sockaddr *address, socklen_t length,
                                 const void *) noexcept {
  return next.connect(fd, address, length);
}
[[gnu::weak]] ssize_t connect_and_send(int fd, const msghdr *message, int flags,
                                       const void *) noexcept {
  return next.sendmsg(fd, message, flags);
}
[[gnu::weak]] int accepted(int, int fd) noexcept { return fd; }
[[gnu::weak]] ssize_t receive(Slot &, int, std::span<const iovec>, int) noexcept {
  return fail(ENOSYS);
}
[[gnu::weak]] ssize_t receive_message(Slot &, int, msghdr *, int) noexcept { return fail(ENOSYS); }
[[gnu::weak]] ssize_t send(Slot &, int, std::span<const iovec>, int) noexcept {
  return fail(ENOSYS);
}
[[gnu::weak]] ssize_t send_message(Slot &, int, const msghdr *, int) noexcept {
  return fail(ENOSYS);
}
[[gnu::weak]] ssize_t send_file(Slot &, int, int, off64_t *, std::size_t) noexcept {
  return fail(ENOSYS);
}
[[gnu::weak]] int get_option(Slot &, int, int, int, void *, socklen_t *) noexcept {
  return fail(ENOSYS);
}
[[gnu::weak]] int set_option(Slot &, int, int, int, const void *, socklen_t) noexcept {
  return fail(ENOSYS);
}
[[gnu::weak]] int control(Slot &, int, unsigned long, void *) noexcept { return fail(ENOSYS); }
[[gnu::weak]] int shut_down(Slot &, int, int) noexcept { return fail(ENOSYS); }
[[gnu::weak]] int close_managed(Slot &, int fd) noexcept { return next.close(fd); }
[[gnu::weak]] void duplicated(Slot &, int, int) noexcept {}
[[gnu::weak]] void before_replace(Slot &, int) noexcept {}
[[gnu::weak]] void before_close_range(unsigned, unsigned) noexcept {}
[[gnu::weak]] void watched(Slot &, int, int, int) noexcept {}
[[gnu::weak]] void flush_everything(bool) noexcept {}
[[gnu::weak]] void refuse(Slot &, int, Refusal, const char *) noexcept {}
[[gnu::weak]] void note_unsupported(Slot &, int, const char *) noexcept {}
[[gnu::weak]] void learn_name(const char *, const sockaddr *, socklen_t) noexcept {}
[[gnu::weak]] bool wants_names() noexcept { return false; }
[[gnu::weak]] bool is_own_descriptor(int) noexcept { return false; }
[[gnu::weak]] int next_own_descriptor(int) noexcept { return -1; }

}  // namespace inlay::shim
