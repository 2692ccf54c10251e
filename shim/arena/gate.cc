#include "shim/arena/gate.h"

#include <sys/mman.h>

#include "policy/containment.h"
#include "shim/arena/kernel.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

// The gate is a page of this library's code that is moved, not a page that is written: where memory
// may not become executable (SELinux execmem, MemoryDenyWriteExecute) that still works.
#if defined(__x86_64__)
#define INLAY_GATE_ALIGN "4096"
asm(".pushsection .text.inlay_gate,\"ax\",@progbits\n"
    ".balign " INLAY_GATE_ALIGN "\n"
    ".globl inlay_gate_page\n.hidden inlay_gate_page\n.type inlay_gate_page,@function\n"
    "inlay_gate_page:\n"
    "  endbr64\n"
    "  syscall\n"
    "  ret\n"
    ".size inlay_gate_page, . - inlay_gate_page\n"
    ".balign " INLAY_GATE_ALIGN "\n"
    // Where the kernel wants the arguments; then a jump, so that the gate returns to the caller.
    ".globl inlay_gate_call\n.hidden inlay_gate_call\n.type inlay_gate_call,@function\n"
    "inlay_gate_call:\n"
    "  endbr64\n"
    "  mov %rdi, %rax\n"
    "  mov %rsi, %rdi\n"
    "  mov %rdx, %rsi\n"
    "  mov %rcx, %rdx\n"
    "  mov %r8, %r10\n"
    "  mov %r9, %r8\n"
    "  mov 8(%rsp), %r9\n"
    "  mov $0x70000000, %ecx\n"
    "  jmp *%rcx\n"
    ".size inlay_gate_call, . - inlay_gate_call\n"
    ".popsection\n");
#else
#define INLAY_GATE_ALIGN "65536"
asm(".pushsection .text.inlay_gate,\"ax\",@progbits\n"
    ".balign " INLAY_GATE_ALIGN "\n"
    ".globl inlay_gate_page\n.hidden inlay_gate_page\n.type inlay_gate_page,%function\n"
    "inlay_gate_page:\n"
    "  hint #34\n"  // bti c
    "  svc #0\n"
    "  ret\n"
    ".size inlay_gate_page, . - inlay_gate_page\n"
    ".balign " INLAY_GATE_ALIGN "\n"
    ".globl inlay_gate_call\n.hidden inlay_gate_call\n.type inlay_gate_call,%function\n"
    "inlay_gate_call:\n"
    "  hint #34\n"
    "  mov x8, x0\n"
    "  mov x0, x1\n"
    "  mov x1, x2\n"
    "  mov x2, x3\n"
    "  mov x3, x4\n"
    "  mov x4, x5\n"
    "  mov x5, x6\n"
    "  movz x16, #0x7000, lsl #16\n"
    "  br x16\n"
    ".size inlay_gate_call, . - inlay_gate_call\n"
    ".popsection\n");
#endif
extern "C" __attribute__((visibility("hidden"))) char inlay_gate_page[];

namespace inlay::shim {
namespace {

static_assert(policy::kGateAddress == 0x70000000, "the jump above goes there");

constexpr long page_size() noexcept {
#if defined(__x86_64__)
  return 4096;
#else
  return 65536;
#endif
}

}  // namespace

bool is_contained() noexcept {
  return kernel::call(SYS_prctl, policy::kContainedQuestion) == -policy::kContainedAnswer;
}

bool open_gate() noexcept {
  long there = policy::kGateAddress;
  // mremap would replace what is there; this does not. A kernel that does not know the flag takes
  // the address for a wish.
  long room = kernel::call(SYS_mmap, there, page_size(), PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (room < 0) return false;
  if (room != there) {
    kernel::call(SYS_munmap, room, page_size());
    return false;
  }
  return kernel::call(SYS_mremap, kernel::word(inlay_gate_page), page_size(), page_size(),
                      MREMAP_MAYMOVE | MREMAP_FIXED, there) == there;
}

}  // namespace inlay::shim
