#include "tls/fiber.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace inlay::tls {
namespace {

// SSL_do_handshake() with the verification of a chain of RSA-8192 needs about a tenth of it; what
// is never touched is never there.
constexpr std::size_t kStackSize = 256 * 1024;
constexpr std::size_t kGuardSize = 4096;
constexpr std::size_t kMappedSize = kStackSize + kGuardSize;

// Stacks nobody uses now, for whichever thread comes next. No destructor: they go with the process.
std::array<std::atomic<void *>, 8> g_spare{};

void *take_stack() noexcept {
  for (auto &spare : g_spare) {
    if (void *stack = spare.exchange(nullptr, std::memory_order_acquire)) return stack;
  }
  void *stack = mmap(nullptr, kMappedSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return nullptr;
  // Stacks grow down. Without the guard an overflow would write over a neighbour's.
  if (mprotect(stack, kGuardSize, PROT_NONE) == 0) return stack;
  munmap(stack, kMappedSize);
  return nullptr;
}

void give_stack(void *stack) noexcept {
  for (auto &spare : g_spare) {
    void *none = nullptr;
    if (spare.compare_exchange_strong(none, stack, std::memory_order_release)) return;
  }
  munmap(stack, kMappedSize);
}

}  // namespace

Fiber::~Fiber() {
  if (stack_ != nullptr) end();
}

void Fiber::end() noexcept {
  switches_.end();
  give_stack(stack_);
  stack_ = nullptr;
}

// makecontext() passes ints only.
void Fiber::enter(unsigned high, unsigned low) {
  auto *self = reinterpret_cast<Fiber *>(std::uintptr_t{high} << 32 | low);
  self->switches_.entered();
  self->function_(self->argument_);
  self->returned_ = true;
  self->suspend();  // for good
}

bool Fiber::switch_in() noexcept {
  switches_.entering(inside_.uc_stack.ss_sp, kStackSize);
  const bool switched = swapcontext(&outside_, &inside_) == 0;
  switches_.left();
  // Not even begun where a seccomp filter of the program's forbids: it cannot go on.
  if (switched && !returned_) return false;
  end();
  return switched;
}

bool Fiber::run(Function function, void *argument) noexcept {
  if (stack_ != nullptr || getcontext(&inside_) != 0) return false;
  stack_ = take_stack();
  if (stack_ == nullptr) return false;
  function_ = function;
  argument_ = argument;
  returned_ = false;
  inside_.uc_stack.ss_sp = static_cast<char *>(stack_) + kGuardSize;
  inside_.uc_stack.ss_size = kStackSize;
  inside_.uc_link = nullptr;
  switches_.begin();
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  makecontext(&inside_, reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(self >> 32),
              static_cast<unsigned>(self & 0xffffffff));
  return switch_in();
}

bool Fiber::resume() noexcept { return stack_ != nullptr && switch_in(); }

void Fiber::suspend() noexcept {
  switches_.leaving(returned_);
  swapcontext(&inside_, &outside_);
  switches_.entered();
}

}  // namespace inlay::tls
