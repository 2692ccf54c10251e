#include "shim/boot/plain_streams.h"

#include <stdio_ext.h>
#include <sys/single_threaded.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "shim/arena/descriptors.h"
#include "shim/arena/process.h"
#include "shim/boot/streams.h"

// The C library's list of its streams.
extern "C" {
void _IO_list_lock(void);
void _IO_list_unlock(void);
void _IO_list_resetlock(void);
FILE *_IO_iter_begin(void);
FILE *_IO_iter_end(void);
FILE *_IO_iter_next(FILE *);
FILE *_IO_iter_file(FILE *);
}

namespace inlay::shim::boot {
namespace {

constexpr int kErrorSeen = 0x20;  // _IO_ERR_SEEN

constexpr int withdrawn(int fd) { return kFirstWithdrawn - fd; }

// For each number: how many streams were opened there, where it stops at kMany; and whether one
// there has lost it. Pages that are never written cost nothing.
constexpr std::uint8_t kMany = 0x7f;
constexpr std::uint8_t kHasLost = 0x80;
std::atomic<std::uint8_t>
    g_numbers[kDescriptorLimit];  // zeroes: clang counts no constinit that far

std::atomic<std::uint8_t> *at(int fd) noexcept {
  return fd < 0 || beyond_table(fd) ? nullptr : &g_numbers[fd];
}

bool has_lost(int fd) noexcept {
  auto *number = at(fd);
  return number != nullptr && (number->load(std::memory_order_acquire) & kHasLost) != 0;
}

class ListLock {
 public:
  ListLock() noexcept { _IO_list_lock(); }
  ~ListLock() { _IO_list_unlock(); }
  ListLock(const ListLock &) = delete;
  ListLock &operator=(const ListLock &) = delete;
};

// The list's lock held.
template <typename Act>
void visit_streams(Act act) noexcept {
  for (FILE *one = _IO_iter_begin(); one != _IO_iter_end(); one = _IO_iter_next(one)) {
    act(_IO_iter_file(one));
  }
}

template <typename Act>
void for_each_stream(Act act) noexcept {
  ListLock list;
  visit_streams(act);
}

// Not under the stream's own lock, which may be held by a thread that waits in read(): whoever is
// in a call on it finishes on what the number was, and looks at the number again for the next.
int number_of(const FILE *stream) noexcept { return stream_number(stream); }
void set_number(FILE *stream, int number) noexcept {
  __atomic_store_n(&stream->_fileno, number, __ATOMIC_RELEASE);
}

// The list's lock held.
void return_number(int fd) noexcept {
  at(fd)->fetch_and(static_cast<std::uint8_t>(~kHasLost), std::memory_order_release);
  visit_streams([fd](FILE *stream) {
    if (number_of(stream) == withdrawn(fd)) set_number(stream, fd);
  });
}

}  // namespace

void note_plain_stream(FILE *stream) noexcept {
  auto *number = stream == nullptr ? nullptr : at(number_of(stream));
  if (number == nullptr) return;
  std::uint8_t before = number->load(std::memory_order_relaxed);
  while ((before & kMany) != kMany &&
         !number->compare_exchange_weak(before, static_cast<std::uint8_t>(before + 1))) {
  }
}

void forget_plain_stream(FILE *stream) noexcept {
  if (stream == nullptr) return;
  int own = withdrawn_number(stream);
  auto *number = at(own >= 0 ? own : number_of(stream));
  if (number == nullptr) return;
  std::uint8_t before = number->load(std::memory_order_relaxed);
  while ((before & kMany) != kMany && (before & kMany) != 0 &&
         !number->compare_exchange_weak(before, static_cast<std::uint8_t>(before - 1))) {
  }
}

void withdraw_streams(int fd) noexcept {
  auto *number = at(fd);
  if (number == nullptr) return;
  // The C library's three were opened by nobody.
  if (fd > STDERR_FILENO && (number->load(std::memory_order_acquire) & kMany) == 0) return;
  if (in_foreign_process()) return;  // a vfork child: the streams are its parent's
  for_each_stream([&](FILE *stream) {
    if (number_of(stream) != fd || is_socket_stream(stream)) return;
    number->fetch_or(kHasLost, std::memory_order_release);
    set_number(stream, withdrawn(fd));
  });
}

void give_back_streams(int fd) noexcept {
  if (!has_lost(fd) || in_foreign_process()) return;
  ListLock list;
  return_number(fd);
}

void give_back_streams_after(int fd, std::uint64_t closing) noexcept {
  if (!has_lost(fd) || in_foreign_process()) return replace_descriptor_word(fd, closing, kUnknown);
  ListLock list;
  std::uint64_t word = descriptor_word(fd);
  if ((word & kManagedBit) != 0 && word != closing) return;
  return_number(fd);
  replace_descriptor_word(fd, closing, kUnknown);
}

bool a_stream_failed(int fd) noexcept {
  if (!has_lost(fd)) return false;
  bool failed = false;
  for_each_stream([&](FILE *stream) {
    failed |= number_of(stream) == withdrawn(fd) && (stream->_flags & kErrorSeen) != 0;
  });
  return failed;
}

void fail_unflushed_streams() noexcept {
  for_each_stream([](FILE *stream) {
    if (withdrawn_number(stream) >= 0 && __fpending(stream) > 0) stream->_flags |= kErrorSeen;
  });
}

namespace {
bool g_held_for_fork = false;  // by the forking thread, which alone looks at it
}  // namespace

void streams_before_fork() noexcept {
  if (__libc_single_threaded) return;
  _IO_list_lock();
  g_held_for_fork = true;
}

void streams_after_fork_parent() noexcept {
  if (!std::exchange(g_held_for_fork, false)) return;
  _IO_list_unlock();
}

void streams_after_fork_child() noexcept {
  if (std::exchange(g_held_for_fork, false)) _IO_list_resetlock();
}

}  // namespace inlay::shim::boot
