#include "shim/boot/sandbox_filter.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>

#include "shim/arena/kernel.h"

namespace inlay::shim::boot {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

// A value the filter computes; empty where it comes from an argument.
using Value = std::optional<std::uint32_t>;

// What the filter says to a system call of which only the number is known; empty when that depends
// on more. Jumps only go forward, so it ends.
class Verdict {
 public:
  Verdict(std::span<const sock_filter> filter, std::uint32_t number) noexcept
      : filter_(filter), number_(number) {}

  Value find() noexcept {
    std::size_t at = 0;
    while (at < filter_.size()) {
      const sock_filter &step = filter_[at++];
      switch (BPF_CLASS(step.code)) {
        case BPF_RET:
          return BPF_RVAL(step.code) == BPF_K ? Value(step.k) : Value();
        case BPF_JMP: {
          std::optional<std::size_t> further = jump(step);
          if (!further) return {};
          at += *further;
          break;
        }
        default:
          if (!compute(step)) return {};
      }
    }
    return {};
  }

 private:
  Value load(std::uint32_t offset) const noexcept {
    if (offset == offsetof(seccomp_data, nr)) return number_;
    if (offset == offsetof(seccomp_data, arch)) return kArchitecture;
    return {};
  }

  // How many instructions are skipped, when that is known.
  std::optional<std::size_t> jump(const sock_filter &step) const noexcept {
    if (BPF_OP(step.code) == BPF_JA) return step.k;
    Value operand = BPF_SRC(step.code) == BPF_K ? Value(step.k) : x_;
    if (!a_ || !operand) return {};
    bool holds;
    switch (BPF_OP(step.code)) {
      case BPF_JEQ:
        holds = *a_ == *operand;
        break;
      case BPF_JGT:
        holds = *a_ > *operand;
        break;
      case BPF_JGE:
        holds = *a_ >= *operand;
        break;
      case BPF_JSET:
        holds = (*a_ & *operand) != 0;
        break;
      default:
        return {};
    }
    return holds ? step.jt : step.jf;
  }

  bool compute(const sock_filter &step) noexcept {
    switch (step.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        a_ = load(step.k);
        return true;
      case BPF_LD | BPF_IMM:
        a_ = step.k;
        return true;
      case BPF_LDX | BPF_IMM:
        x_ = step.k;
        return true;
      case BPF_LD | BPF_MEM:
        if (step.k >= memory_.size()) return false;
        a_ = memory_[step.k];
        return true;
      case BPF_LDX | BPF_MEM:
        if (step.k >= memory_.size()) return false;
        x_ = memory_[step.k];
        return true;
      case BPF_ST:
        if (step.k >= memory_.size()) return false;
        memory_[step.k] = a_;
        return true;
      case BPF_STX:
        if (step.k >= memory_.size()) return false;
        memory_[step.k] = x_;
        return true;
      case BPF_MISC | BPF_TAX:
        x_ = a_;
        return true;
      case BPF_MISC | BPF_TXA:
        a_ = x_;
        return true;
      case BPF_ALU | BPF_AND | BPF_K:
        if (a_) a_ = *a_ & step.k;
        return true;
      default:
        a_.reset();  // other arithmetic, the length of the data: not looked into
        return BPF_CLASS(step.code) == BPF_ALU || BPF_CLASS(step.code) == BPF_LD;
    }
  }

  std::span<const sock_filter> filter_;
  std::uint32_t number_;
  Value a_ = 0, x_ = 0;
  std::array<Value, BPF_MEMWORDS> memory_{};
};

bool allowed(std::span<const sock_filter> filter, std::uint32_t number) noexcept {
  Value verdict = Verdict(filter, number).find();
  return verdict && (*verdict & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ALLOW;
}

// A tracer or a supervisor decides, who is not the program.
bool asks_another(std::uint32_t verdict) noexcept {
  std::uint32_t action = verdict & SECCOMP_RET_ACTION_FULL;
  return action == SECCOMP_RET_TRACE || action == SECCOMP_RET_USER_NOTIF;
}

// Whether the filter may leave this call to somebody else. Where its answer depends on more than
// the number, all its answers count.
bool may_ask_another(std::span<const sock_filter> filter, std::uint32_t number) noexcept {
  if (Value verdict = Verdict(filter, number).find()) return asks_another(*verdict);
  return std::any_of(filter.begin(), filter.end(), [](const sock_filter &step) {
    return BPF_CLASS(step.code) == BPF_RET &&
           (BPF_RVAL(step.code) != BPF_K || asks_another(step.k));
  });
}

// What an argument must be. Values are compared with its lower half, an int's.
struct Argument {
  enum class Must : std::uint8_t { be_null, be_one_of, have_only };

  unsigned index;
  Must must;
  std::array<std::uint32_t, 12> values;
  std::size_t count;

  static Argument null(unsigned index) noexcept { return {index, Must::be_null, {}, 1}; }
  static Argument only(unsigned index, std::uint32_t bits) noexcept {
    return {index, Must::have_only, {~bits}, 1};
  }
  template <typename... V>
  static Argument one_of(unsigned index, V... values) noexcept {
    return {index, Must::be_one_of, {static_cast<std::uint32_t>(values)...}, sizeof...(values)};
  }

  std::size_t instructions() const noexcept { return must == Must::be_null ? 4 : 1 + count; }
};

class Writer {
 public:
  explicit Writer(std::span<sock_filter, kAheadLimit> out) noexcept : out_(out) {}

  std::size_t size() const noexcept { return size_; }

  void add(unsigned code, std::size_t k, std::size_t if_true = 0,
           std::size_t if_false = 0) noexcept {
    out_[size_++] = {static_cast<std::uint16_t>(code), static_cast<std::uint8_t>(if_true),
                     static_cast<std::uint8_t>(if_false), static_cast<std::uint32_t>(k)};
  }

  // Lets the call through when all arguments are as said.
  void let(std::uint32_t number, std::initializer_list<Argument> arguments) noexcept {
    std::size_t end = size_ + 3;
    for (const Argument &argument : arguments) end += argument.instructions();
    expect(offsetof(seccomp_data, nr), number, end);
    for (const Argument &argument : arguments) expect(argument, end);
    add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  }

 private:
  std::size_t until(std::size_t end) const noexcept { return end - size_ - 1; }

  // Goes on when the word has the value, else at `end`.
  void expect(std::size_t offset, std::uint32_t value, std::size_t end) noexcept {
    add(BPF_LD | BPF_W | BPF_ABS, offset);
    add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, until(end));
  }

  void expect(const Argument &argument, std::size_t end) noexcept {
    // Little-endian, as both machines are.
    std::size_t low = offsetof(seccomp_data, args) + argument.index * sizeof(std::uint64_t);
    if (argument.must == Argument::Must::be_null) {
      expect(low, 0, end);
      expect(low + sizeof(std::uint32_t), 0, end);
      return;
    }
    add(BPF_LD | BPF_W | BPF_ABS, low);
    if (argument.must == Argument::Must::have_only) {
      return add(BPF_JMP | BPF_JSET | BPF_K, argument.values[0], until(end));
    }
    for (std::size_t left = argument.count; left > 0; --left) {
      add(BPF_JMP | BPF_JEQ | BPF_K, argument.values[argument.count - left], left - 1,
          left == 1 ? until(end) : 0);
    }
  }

  std::span<sock_filter, kAheadLimit> out_;
  std::size_t size_ = 0;
};

}  // namespace

bool allows_reading_and_writing(std::span<const sock_filter> filter) noexcept {
  return allowed(filter, SYS_read) && allowed(filter, SYS_write);
}

std::size_t write_ahead(std::span<const sock_filter> filter,
                        std::span<sock_filter, kAheadLimit> out) noexcept {
  std::array<sock_filter, kAheadLimit> rules{};
  Writer writer(rules);
  auto let = [&](std::uint32_t number, std::initializer_list<Argument> arguments) {
    if (!may_ask_another(filter, number)) writer.let(number, arguments);
  };
  // As read and write on a socket: no address, no room for one. What write cannot do, urgent data
  // or pinning memory, stays the filter's to allow.
  let(SYS_recvfrom, {Argument::only(3, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT), Argument::null(4),
                     Argument::null(5)});
  let(SYS_sendto, {Argument::only(3, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE), Argument::null(4),
                   Argument::one_of(5, 0)});
  // Questions. Not all options are: SO_PEERPIDFD makes a descriptor.
  let(SYS_getsockopt,
      {Argument::one_of(1, SOL_SOCKET),
       Argument::one_of(2, SO_DOMAIN, SO_TYPE, SO_PROTOCOL, SO_ACCEPTCONN, SO_COOKIE, SO_ERROR,
                        SO_LINGER, SO_SNDBUF, SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVLOWAT)});
  let(SYS_getsockopt, {Argument::one_of(1, IPPROTO_TCP), Argument::one_of(2, TCP_INFO)});
  let(SYS_getsockname, {});
  let(SYS_getpeername, {});
  let(SYS_fcntl, {Argument::one_of(1, F_GETFL, F_OFD_GETLK)});
  let(SYS_kill, {Argument::one_of(1, 0)});
  // Waiting, without another signal mask; locks, in their two plainest calls.
  let(SYS_ppoll, {Argument::null(3)});
  let(SYS_futex,
      {Argument::one_of(1, FUTEX_WAIT, FUTEX_WAKE, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE)});
  Writer all(out);
  all.add(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  all.add(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 0, writer.size());
  std::size_t length = all.size();
  for (std::size_t i = 0; i < writer.size(); ++i) out[length++] = rules[i];
  // The filter finds the accumulator as the kernel hands it over.
  out[length++] = {BPF_LD | BPF_IMM, 0, 0, 0};
  return length;
}

// Mapped, not on the stack: a filter may have 32 KiB, a thread's stack half of that.
WiderFilter::WiderFilter(const sock_fprog *own) noexcept : installed_(own) {
  if (own == nullptr || own->filter == nullptr || own->len + kAheadLimit > BPF_MAXINSNS) return;
  std::span<const sock_filter> filter(own->filter, own->len);
  if (!allows_reading_and_writing(filter)) return;
  std::size_t size = (own->len + kAheadLimit) * sizeof(sock_filter);
  long mapped = kernel::call(SYS_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped < 0 && mapped > -4096) return;
  mapped_ = size;
  wider_.filter = reinterpret_cast<sock_filter *>(mapped);
  may_unmap_ = allowed(filter, SYS_munmap);
  std::size_t ahead =
      write_ahead(filter, std::span<sock_filter, kAheadLimit>(wider_.filter, kAheadLimit));
  std::memcpy(wider_.filter + ahead, own->filter, own->len * sizeof(sock_filter));
  wider_.len = static_cast<unsigned short>(ahead + own->len);
  installed_ = &wider_;
}

// Under a filter without munmap the copy stays.
WiderFilter::~WiderFilter() {
  if (!may_unmap_) return;
  kernel::call(SYS_munmap, kernel::word(wider_.filter), static_cast<long>(mapped_));
}

}  // namespace inlay::shim::boot
