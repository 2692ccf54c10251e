// Runs a command and fails one of its system calls, or of its children's: the kernel is never
// asked, or is asked for less than the program wanted. Needs nothing of the program: it is traced.
//
//   failing OUT CALL NUMBER HOW -- COMMAND...
//
//   error=E   the NUMBER-th call of this name gives errno E
//   after=E   the same, but the call was done: close() frees its number whatever it says
//   from=E    and so do all later ones
//   short=N   a call that reads or writes more than N bytes gets N of them
//   no        none fails: OUT gets the name of each call
//
// Counted are the calls from the first one that libinlay.so makes itself, but those of the loader,
// which gives up where it fails, and what the program prints. OUT ends with a line of JSON: whether
// the call was met, and what descriptors each process had open as it ended. A command that a signal
// ends has the shell's 128 + signal.
#include <elf.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace {

#define INLAY_CALLS(X)                                                                            \
  X(accept)                                                                                       \
  X(accept4)                                                                                      \
  X(brk)                                                                                          \
  X(clone) X(clone3) X(close) X(connect) X(dup) X(dup2) X(dup3) X(epoll_create1) X(epoll_ctl)     \
      X(epoll_pwait) X(epoll_wait) X(eventfd2) X(execve) X(faccessat) X(fchmodat) X(fcntl)        \
          X(flock) X(fork) X(fstat) X(ftruncate) X(futex) X(getdents64) X(getpeername)            \
              X(getrandom) X(getsockname) X(getsockopt) X(ioctl) X(kill) X(listen) X(lseek)       \
                  X(madvise) X(memfd_create) X(mkdirat) X(mmap) X(mprotect) X(mremap) X(munlock)  \
                      X(munmap) X(nanosleep) X(newfstatat) X(openat) X(pidfd_getfd) X(pidfd_open) \
                          X(poll) X(ppoll) X(prctl) X(pread64) X(prlimit64) X(process_vm_readv)   \
                              X(read) X(readlinkat) X(readv) X(recvfrom) X(recvmmsg) X(recvmsg)   \
                                  X(sendfile) X(sendmmsg) X(sendmsg) X(sendto) X(setsockopt)      \
                                      X(shutdown) X(sigaltstack) X(socket) X(socketpair) X(statx) \
                                          X(tgkill) X(unlinkat) X(vfork) X(wait4) X(write)        \
                                              X(writev)

struct Call {
  std::string_view name;
  long number;
};
constexpr Call kCalls[] = {
#define INLAY_CALL(name) {#name, SYS_##name},
    INLAY_CALLS(INLAY_CALL)
#undef INLAY_CALL
};

[[noreturn]] void die(const std::string &why) {
  std::perror(why.c_str());
  std::_Exit(125);
}

// The registers of one stopped thread: a call's number, arguments and result.
class Registers {
 public:
  explicit Registers(pid_t thread) : thread_(thread) {
    iovec whole{&all_, sizeof all_};
    known_ = ptrace(PTRACE_GETREGSET, thread, NT_PRSTATUS, &whole) == 0;
  }
  bool known() const { return known_; }  // false: it was killed meanwhile
  unsigned long long &argument(int index) {
    std::array places{&all_.rdi, &all_.rsi, &all_.rdx, &all_.r10, &all_.r8, &all_.r9};
    return *places[static_cast<std::size_t>(index)];
  }
  long number() const { return static_cast<long>(all_.orig_rax); }
  void skip() { all_.orig_rax = ~0ull; }
  void set_result(long result) { all_.rax = static_cast<unsigned long long>(result); }
  unsigned long long at() const { return all_.rip; }
  // Below what a leaf function may use without saying so.
  unsigned long long scratch() const { return (all_.rsp - 128 - 256) & ~15ull; }
  void put() {
    iovec whole{&all_, sizeof all_};
    ptrace(PTRACE_SETREGSET, thread_, NT_PRSTATUS, &whole);
  }

 private:
  pid_t thread_;
  bool known_ = false;
  user_regs_struct all_{};
};

template <typename T>
bool read_from(pid_t thread, unsigned long long at, T *value) {
  iovec here{value, sizeof(T)}, there{reinterpret_cast<void *>(at), sizeof(T)};
  return process_vm_readv(thread, &here, 1, &there, 1, 0) == static_cast<ssize_t>(sizeof(T));
}
template <typename T>
bool write_to(pid_t thread, unsigned long long at, const T &value) {
  iovec here{const_cast<T *>(&value), sizeof(T)}, there{reinterpret_cast<void *>(at), sizeof(T)};
  return process_vm_writev(thread, &here, 1, &there, 1, 0) == static_cast<ssize_t>(sizeof(T));
}

enum class How { none, error, after, from, shorter };

struct Failure {
  std::string_view call;
  long number = -1;
  long which = 0;
  How how = How::none;
  long value = 0;
};

// What a thread is to find when its call returns.
struct Pending {
  std::optional<long> result;
  std::optional<unsigned long long> first, second, third;  // arguments that were changed
  unsigned long long message = 0, copy = 0;  // a message's header, and where it was put
};

struct Thread {
  bool inside = false;  // between a call's entry and its exit
  Pending pending;
};

class Tracer {
 public:
  Tracer(Failure failure, std::FILE *out) : failure_(failure), out_(out) {}

  // The command's status, as a shell would give it.
  int run(char **command) {
    first_ = fork();
    if (first_ == 0) {
      ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      raise(SIGSTOP);
      execvp(command[0], command);
      die(command[0]);
    }
    int status = 0;
    if (waitpid(first_, &status, 0) != first_) die("waitpid");
    threads_.try_emplace(first_);
    constexpr long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE |
                              PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
                              PTRACE_O_TRACEEXIT;
    ptrace(PTRACE_SETOPTIONS, first_, nullptr, kOptions);
    ptrace(PTRACE_SYSCALL, first_, nullptr, nullptr);
    int result = 125;
    for (;;) {
      pid_t thread = waitpid(-1, &status, __WALL);
      if (thread < 0) break;
      if (!WIFSTOPPED(status)) {
        threads_.erase(thread);
        if (thread == first_) {
          result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        } else if (WIFSIGNALED(status)) {
          signals_ += 1;  // of a child; a thread's is its process's
        }
        continue;
      }
      stopped(thread, status);
    }
    std::fprintf(out_, "{\"met\": %s, \"killed\": %d, \"open\": [%s]}\n", met_ ? "true" : "false",
                 signals_, open_.c_str());
    return result;
  }

 private:
  void stopped(pid_t thread, int status) {
    int signal = WSTOPSIG(status);
    int event = status >> 16;
    long deliver = 0;
    if (signal == (SIGTRAP | 0x80)) {
      at_call(thread);
    } else if (event == PTRACE_EVENT_EXIT) {
      note_open(thread);
    } else if (event == PTRACE_EVENT_EXEC) {
      armed_ = false;  // the loader's turn
    } else if (event == 0 && signal != SIGTRAP &&
               !(signal == SIGSTOP && threads_.try_emplace(thread).second)) {
      deliver = signal;  // but not the stop every new thread begins with
    }
    ptrace(PTRACE_SYSCALL, thread, nullptr, deliver);
  }

  void at_call(pid_t thread) {
    Thread &here = threads_[thread];
    here.inside = !here.inside;
    Registers registers(thread);
    if (!registers.known()) return;
    if (!here.inside) return leave(thread, registers, here.pending);
    if (!is_counted(thread, registers)) return;
    const Call *call = std::find_if(std::begin(kCalls), std::end(kCalls), [&](const Call &known) {
      return known.number == registers.number();
    });
    if (call == std::end(kCalls)) return;
    if (failure_.how == How::none) {
      std::fprintf(out_, "%.*s\n", static_cast<int>(call->name.size()), call->name.data());
    } else if (call->number == failure_.number) {
      enter(thread, registers, here.pending);
    }
  }

  bool is_counted(pid_t thread, Registers &registers) {
    std::string_view file = file_of(thread, registers.at());
    if (file.find("libinlay.so") != std::string_view::npos) armed_ = true;
    if (!armed_ || file.find("/ld-linux") != std::string_view::npos) return false;
    return can_fail(registers);
  }

  // Some calls fail in some of their uses only.
  bool can_fail(Registers &registers) {
    auto which = registers.argument(1);
    switch (registers.number()) {
      case SYS_write:  // the test reads that
        return registers.argument(0) > 2;
      case SYS_futex: {  // nothing is to be said of one that wakes somebody
        auto operation = which & FUTEX_CMD_MASK;
        return operation == FUTEX_WAIT || operation == FUTEX_WAIT_BITSET;
      }
      case SYS_fcntl:
        return which == F_DUPFD || which == F_DUPFD_CLOEXEC || which == F_ADD_SEALS;
      case SYS_recvfrom:
      case SYS_sendto:  // a call that does not wait is not interrupted
        return failure_.value != EINTR || (registers.argument(3) & MSG_DONTWAIT) == 0;
      default:
        return true;
    }
  }

  void enter(pid_t thread, Registers &registers, Pending &pending) {
    if (failure_.how == How::shorter) {
      if (met_ || !is_longer(thread, registers)) return;
      if (++count_ != failure_.which) return;
      met_ = shorten(thread, registers, pending);
      return;
    }
    count_ += 1;
    if (failure_.how == How::from ? count_ < failure_.which : count_ != failure_.which) return;
    met_ = true;
    if (failure_.how == How::after) {
      pending.result = -failure_.value;
      return;
    }
    if (failure_.number == SYS_brk) {  // says where the break is, and not why it stays there
      pending.first = std::exchange(registers.argument(0), 0);
    } else {
      pending.result = -failure_.value;
      registers.skip();
    }
    registers.put();
  }

  static bool has_vector(long number) { return number == SYS_readv || number == SYS_writev; }
  static bool has_message(long number) { return number == SYS_recvmsg || number == SYS_sendmsg; }

  // The first part of what a call moves.
  std::optional<iovec> first_part(pid_t thread, Registers &registers) {
    unsigned long long at = registers.argument(1), count = registers.argument(2);
    if (has_message(registers.number())) {
      msghdr message{};
      if (!read_from(thread, at, &message)) return {};
      at = reinterpret_cast<unsigned long long>(message.msg_iov);
      count = message.msg_iovlen;
    } else if (!has_vector(registers.number())) {
      return iovec{reinterpret_cast<void *>(at), count};
    }
    iovec part{};
    for (; count > 0; --count, at += sizeof part) {
      if (!read_from(thread, at, &part)) return {};
      if (part.iov_len > 0) return part;
    }
    return {};
  }

  bool is_longer(pid_t thread, Registers &registers) {
    std::optional<iovec> part = first_part(thread, registers);
    return part && part->iov_len > static_cast<std::size_t>(failure_.value);
  }

  bool shorten(pid_t thread, Registers &registers, Pending &pending) {
    iovec part = *first_part(thread, registers);
    part.iov_len = static_cast<std::size_t>(failure_.value);
    if (has_vector(registers.number())) {
      if (!write_to(thread, registers.scratch(), part)) return false;
      pending.second = std::exchange(registers.argument(1), registers.scratch());
      pending.third = std::exchange(registers.argument(2), 1);
    } else if (has_message(registers.number())) {
      msghdr message{};
      unsigned long long copy = registers.scratch();
      if (!read_from(thread, registers.argument(1), &message)) return false;
      message.msg_iov = reinterpret_cast<iovec *>(copy + sizeof message);
      message.msg_iovlen = 1;
      if (!write_to(thread, copy, message) || !write_to(thread, copy + sizeof message, part))
        return false;
      pending.message = registers.argument(1);
      pending.copy = copy;
      pending.second = std::exchange(registers.argument(1), copy);
    } else {
      pending.third = std::exchange(registers.argument(2), part.iov_len);
    }
    registers.put();
    return true;
  }

  void leave(pid_t thread, Registers &registers, Pending &pending) {
    if (!pending.result && !pending.first && !pending.second && !pending.third) return;
    if (pending.message != 0) {
      msghdr given{}, wanted{};
      if (read_from(thread, pending.copy, &given) && read_from(thread, pending.message, &wanted)) {
        wanted.msg_namelen = given.msg_namelen;
        wanted.msg_controllen = given.msg_controllen;
        wanted.msg_flags = given.msg_flags;
        write_to(thread, pending.message, wanted);
      }
    }
    if (pending.result) registers.set_result(*pending.result);
    if (pending.first) registers.argument(0) = *pending.first;
    if (pending.second) registers.argument(1) = *pending.second;
    if (pending.third) registers.argument(2) = *pending.third;
    registers.put();
    pending = {};
  }

  // The file whose code this is. A process's mappings are asked for once in its image, and again
  // where none fits.
  std::string_view file_of(pid_t thread, unsigned long long at) {
    for (const auto &[end, mapping] : mapped_) {
      if (at < end && at >= mapping.first) return mapping.second;
    }
    mapped_.clear();
    std::ifstream maps("/proc/" + std::to_string(thread) + "/maps");
    for (std::string line; std::getline(maps, line);) {
      unsigned long long begin = 0, end = 0;
      char rights[8] = {};
      if (std::sscanf(line.c_str(), "%llx-%llx %7s", &begin, &end, rights) != 3 || rights[2] != 'x')
        continue;
      std::size_t name = line.find('/');
      mapped_[end] = {begin, name == std::string::npos ? "" : line.substr(name)};
    }
    for (const auto &[end, mapping] : mapped_) {
      if (at < end && at >= mapping.first) return mapping.second;
    }
    return {};
  }

  // As its last thread ends.
  void note_open(pid_t thread) {
    std::error_code ignored;
    for (std::filesystem::directory_iterator it("/proc/" + std::to_string(thread) + "/fd", ignored),
         end;
         it != end; it.increment(ignored)) {
      std::string to = std::filesystem::read_symlink(it->path(), ignored).string();
      if (thread == first_) open_ += (open_.empty() ? "\"" : ", \"") + to + "\"";
    }
  }

  Failure failure_;
  std::FILE *out_;
  pid_t first_ = 0;
  std::map<pid_t, Thread> threads_;
  std::map<unsigned long long, std::pair<unsigned long long, std::string>>
      mapped_;  // by their ends
  std::string open_;
  bool armed_ = false;
  bool met_ = false;
  int signals_ = 0;
  long count_ = 0;
};

Failure parse(char **words) {
  Failure failure;
  failure.call = words[0];
  failure.which = std::atol(words[1]);
  std::string_view how = words[2];
  std::size_t equals = how.find('=');
  std::string_view kind = how.substr(0, equals);
  if (equals != std::string_view::npos) failure.value = std::atol(words[2] + equals + 1);
  failure.how = kind == "error"   ? How::error
                : kind == "after" ? How::after
                : kind == "from"  ? How::from
                : kind == "short" ? How::shorter
                                  : How::none;
  for (const Call &call : kCalls) {
    if (call.name == failure.call) failure.number = call.number;
  }
  if (failure.how != How::none && failure.number < 0) die("unknown call");
  return failure;
}

}  // namespace

int main(int count, char **words) {
  if (count < 7) {
    std::fprintf(stderr, "failing OUT CALL NUMBER HOW -- COMMAND...\n");
    return 125;
  }
  std::FILE *out = std::fopen(words[1], "we");
  if (out == nullptr) die(words[1]);
  int status = Tracer(parse(words + 2), out).run(words + 6);
  std::fclose(out);
  return status;
}
