#include "shim/arena/descriptors.h"

#include <sys/mman.h>

#include "shim/arena/kernel.h"

namespace inlay::shim {

std::atomic<std::uint64_t> *g_descriptor_words = nullptr;

namespace {

std::atomic<int> g_highest{-1};

bool in_table(int fd) noexcept {
  return g_descriptor_words != nullptr && static_cast<unsigned>(fd) < kDescriptorLimit;
}

void raise_highest(int fd) noexcept {
  int highest = g_highest.load(std::memory_order_relaxed);
  while (fd > highest && !g_highest.compare_exchange_weak(highest, fd)) {
  }
}

}  // namespace

bool make_descriptor_table() noexcept {
  long mapped = kernel::call(SYS_mmap, 0, kDescriptorLimit * sizeof(std::uint64_t),
                             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                             0);
  if (mapped < 0 && mapped > -4096) return false;
  g_descriptor_words = reinterpret_cast<std::atomic<std::uint64_t> *>(mapped);
  return true;
}

void forget_descriptor(int fd) noexcept {
  if (in_table(fd)) g_descriptor_words[fd].store(kUnknown, std::memory_order_release);
}

void forget_file(int fd) noexcept {
  if (!in_table(fd)) return;
  std::uint64_t word = g_descriptor_words[fd].load(std::memory_order_acquire);
  bool file = word == kUnmanaged || word == kFile;
  g_descriptor_words[fd].store(file ? kFile : kUnknown, std::memory_order_release);
}

std::uint64_t descriptor_word(int fd) noexcept {
  return in_table(fd) ? g_descriptor_words[fd].load(std::memory_order_acquire) : kUnknown;
}

void set_descriptor_word(int fd, std::uint64_t word) noexcept {
  if (!in_table(fd)) return;
  if (word != kUnknown) raise_highest(fd);
  g_descriptor_words[fd].store(word, std::memory_order_release);
}

bool replace_descriptor_word(int fd, std::uint64_t from, std::uint64_t to) noexcept {
  if (!in_table(fd)) return false;
  if (to != kUnknown) raise_highest(fd);
  return g_descriptor_words[fd].compare_exchange_strong(from, to, std::memory_order_acq_rel);
}

int highest_descriptor() noexcept { return g_highest.load(std::memory_order_acquire); }

}  // namespace inlay::shim
