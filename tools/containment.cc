#include "tools/containment.h"

#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "policy/containment.h"

#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif
#ifndef AF_SMC
#define AF_SMC 43
#endif

namespace inlay::tools {
namespace {

using Code = std::vector<sock_filter>;

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
constexpr std::uint32_t kX32Bit = 0x40000000;
// Of i386, which runs beside it.
struct Compat {
  static constexpr std::uint32_t socket = 359, accept4 = 364, socketcall = 102;
};
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
// Of 32-bit ARM.
struct Compat {
  static constexpr std::uint32_t socket = 281, accept = 285, accept4 = 366;
};
#else
#error "inlay knows the system calls of x86-64 and aarch64 only"
#endif
// The same number in every table (they were added to all at once).
constexpr std::uint32_t kFirstIoUring = 425, kLastIoUring = 427;
constexpr std::uint32_t kSockTypeMask = 0xf;  // without SOCK_NONBLOCK, SOCK_CLOEXEC

// Arguments and addresses are 64 bits wide, little end first; the kernel itself looks only at the
// low half of every argument that is looked at here.
constexpr std::uint32_t argument(unsigned index) {
  return static_cast<std::uint32_t>(offsetof(seccomp_data, args)) + 8 * index;
}
constexpr std::uint32_t kNumber = offsetof(seccomp_data, nr);
constexpr std::uint32_t kArch = offsetof(seccomp_data, arch);
constexpr std::uint32_t kAddress = offsetof(seccomp_data, instruction_pointer);

sock_filter load(std::uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
sock_filter answer(std::uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
sock_filter refuse(int error) {
  return answer(SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error));
}
sock_filter allow() { return answer(SECCOMP_RET_ALLOW); }

void append(Code &code, const Code &more) { code.insert(code.end(), more.begin(), more.end()); }

// `then` where the loaded word compares true with `value`; `then` ends in an answer.
void when(Code &code, std::uint16_t comparison, std::uint32_t value, const Code &then) {
  code.push_back(BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | comparison | BPF_K), value, 0,
                          static_cast<std::uint8_t>(then.size())));
  append(code, then);
}
void when_number(Code &code, std::initializer_list<std::uint32_t> numbers, const Code &then) {
  for (std::uint32_t number : numbers) when(code, BPF_JEQ, number, then);
}

// From the gate page, or not at all.
Code gated() {
  Code code{load(kAddress + 4)};
  Code low{load(kAddress)};
  when(low, BPF_JEQ, policy::kGateReturn, {allow()});
  low.push_back(refuse(EACCES));
  when(code, BPF_JEQ, 0, low);
  code.push_back(refuse(EACCES));
  return code;
}

Code on_socket() {
  Code stream{load(argument(1)), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, kSockTypeMask)};
  when(stream, BPF_JEQ, SOCK_STREAM, gated());
  stream.push_back(allow());
  Code code{load(argument(0))};
  for (auto family : {std::uint32_t{AF_INET}, std::uint32_t{AF_INET6}}) {
    when(code, BPF_JEQ, family, stream);
  }
  when(code, BPF_JEQ, AF_SMC, {refuse(EAFNOSUPPORT)});
  code.push_back(allow());
  return code;
}

Code on_send(unsigned flags) {
  Code code{load(argument(flags))};
  when(code, BPF_JSET, MSG_FASTOPEN, {refuse(EOPNOTSUPP)});
  code.push_back(allow());
  return code;
}

Code on_option() {
  Code name{load(argument(2))};
  when(name, BPF_JEQ, TCP_FASTOPEN_CONNECT, {refuse(EOPNOTSUPP)});
  name.push_back(allow());
  Code code{load(argument(1))};
  when(code, BPF_JEQ, IPPROTO_TCP, name);
  code.push_back(allow());
  return code;
}

Code on_question() {
  Code code{load(argument(0))};
  when(code, BPF_JEQ, policy::kContainedQuestion, {refuse(policy::kContainedAnswer)});
  code.push_back(allow());
  return code;
}

Code native() {
  Code code{load(kNumber)};
#if defined(__x86_64__)
  // -1 is what a tracer sets to skip a call.
  when(code, BPF_JEQ, 0xffffffff, {allow()});
  when(code, BPF_JGE, kX32Bit, {refuse(ENOSYS)});
#endif
  when_number(code, {SYS_socket}, on_socket());
#ifdef SYS_accept
  when_number(code, {SYS_accept}, gated());
#endif
  when_number(code, {SYS_accept4}, gated());
  when_number(code, {SYS_sendto, SYS_sendmmsg}, on_send(3));
  when_number(code, {SYS_sendmsg}, on_send(2));
  when_number(code, {SYS_setsockopt}, on_option());
  when_number(code, {SYS_prctl}, on_question());
  for (std::uint32_t n = kFirstIoUring; n <= kLastIoUring; ++n) {
    when_number(code, {n}, {refuse(ENOSYS)});
  }
  code.push_back(allow());
  return code;
}

// A 32-bit program has no gate page; its calls are told by their numbers only.
Code compat() {
  Code code{load(kNumber)};
#if defined(__x86_64__)
  Code multiplexed{load(argument(0))};
  // SYS_SOCKET, SYS_ACCEPT, SYS_ACCEPT4 of linux/net.h: the family is behind a pointer.
  when_number(multiplexed, {1, 5, 18}, {refuse(EACCES)});
  multiplexed.push_back(allow());
  when_number(code, {Compat::socketcall}, multiplexed);
#else
  when_number(code, {Compat::accept}, {refuse(EACCES)});
#endif
  when_number(code, {Compat::socket}, on_socket());
  when_number(code, {Compat::accept4}, {refuse(EACCES)});
  for (std::uint32_t n = kFirstIoUring; n <= kLastIoUring; ++n) {
    when_number(code, {n}, {refuse(ENOSYS)});
  }
  code.push_back(allow());
  return code;
}

tl::unexpected<std::string> failed(const char *what) {
  return tl::make_unexpected(fmt::format(
      "run: --strict: {}: {}; the kernel must allow seccomp filters", what, std::strerror(errno)));
}

}  // namespace

std::vector<sock_filter> containment_filter() {
  Code code{load(kArch)};
  when(code, BPF_JEQ, kArchitecture, native());
  append(code, compat());
  return code;
}

bool is_contained() {
  int saved = errno;
  bool contained =
      ::prctl(policy::kContainedQuestion, 0, 0, 0, 0) != 0 && errno == policy::kContainedAnswer;
  errno = saved;
  return contained;
}

tl::expected<void, std::string> contain() {
  std::vector<sock_filter> code = containment_filter();
  sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("no_new_privs");
  // Without SPEC_ALLOW the program would lose its processor's speculation on older kernels.
  unsigned flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  long done = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  if (done != 0 && errno == EINVAL) {
    done = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0u, &program);
  }
  if (done != 0) return failed("seccomp");
  return {};
}

}  // namespace inlay::tools
