// Leaving the process's image: _exit, exec, posix_spawn; and the calls inlay must know of to keep
// its own threads and system calls out of the way.
//
// exit(), return from main and quick_exit() need no hook: boot/ registers a last handler. fork is
// followed through pthread_atfork. vfork must not be wrapped: the child would return through a
// frame the parent still needs.

#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "shim/arena/kernel.h"
#include "shim/boot/environment.h"
#include "shim/boot/log.h"
#include "shim/boot/sandbox.h"
#include "shim/boot/sandbox_filter.h"
#include "shim/hooks/hook.h"
#include "shim/hooks/shell.h"
#include "shim/session/agent_wishes.h"
#include "shim/session/fork.h"
#include "shim/session/hand_over.h"
#include "shim/session/withhold.h"

using namespace inlay::shim;

namespace {

// Of a vfork child the sessions are the parent's: they stay.
void before_exec() {
  if (!boot::active()) return;
  hand_on_standard_streams();
  if (!in_foreign_process()) flush_everything(true);
}

void before_exit() {
  if (!boot::active() || in_foreign_process()) return;
  flush_everything(false);
  boot::end_log();
}

// What an exec does before the system call, and undoes when it fails.
struct Departure {
  HandOver hand_over;
  Withhold withhold;

  // Only an image that loads inlay gets what belongs to sessions. `may_happen`: an exec that is sure to
  // fail ends no session, as programs try one folder of PATH after the other. All else can be undone,
  // and is done in case it does not fail.
  Departure(boot::Target target, bool may_happen) {
    if (!boot::active()) return;
    bool reachable = target == boot::Target::reachable;
    if (!reachable) withhold.mark();
    if (may_happen) before_exec();
    if (reachable) {
      hand_over.for_exec(withhold);
    } else {
      withhold.cover_standard_streams();
    }
    departed_ = may_happen;
  }
  ~Departure() {
    if (departed_ && !in_foreign_process()) exec_failed();
  }

 private:
  bool departed_ = false;
};

int execute(const char *path, char *const arguments[], char *const environment[]) {
  bound();
  boot::Target target = boot::judge_target(path);
  if (!boot::may_start(target, path)) return fail(EACCES);
  const bool may_happen = boot::may_be_executed(path) && boot::fits(arguments, environment);
  Departure departure(target, may_happen);
  return boot::with_repaired(
      environment, departure.hand_over.variable(),
      [&](char *const repaired[]) { return next.execve(path, arguments, repaired); });
}

int execute_in_path(const char *file, char *const arguments[], char *const environment[]) {
  bound();
  boot::Target target = boot::judge_target_in_path(file);
  if (!boot::may_start(target, file)) return fail(EACCES);
  const bool may_happen = (std::strchr(file, '/') == nullptr || boot::may_be_executed(file)) &&
                          boot::fits(arguments, environment);
  Departure departure(target, may_happen);
  return boot::with_repaired(
      environment, departure.hand_over.variable(),
      [&](char *const repaired[]) { return next.execvpe(file, arguments, repaired); });
}

// `spawn` with the actions and the environment it is to use; its result is an errno.
template <typename Spawn>
int spawn_with(Spawn spawn, boot::Target target, pid_t *pid,
               const posix_spawn_file_actions_t *actions, char *const environment[]) {
  HandOver hand_over;
  Withhold withhold;
  if (boot::active() && target == boot::Target::reachable) {
    if (int error = hand_over.for_spawn(&actions); error != 0) return error;
  } else if (boot::active()) {
    if (!Withhold::allows(actions)) return EACCES;
    withhold.mark();
  }
  pid_t child = 0;
  int result = boot::with_repaired(environment, hand_over.variable(), [&](char *const repaired[]) {
    return spawn(&child, actions, repaired);
  });
  if (result != 0) return result < 0 ? ENOMEM : result;  // a spawn gives no negative error
  hand_over.spawned(child);
  if (pid != nullptr) *pid = child;
  return 0;
}

// The argument list of the execl family on the stack: exec may be called where malloc may not.
// Calls `run(arguments, list)` with `list` behind the terminating null.
template <typename Run>
int with_list(const char *first, va_list list, Run run) {
  va_list counting;
  va_copy(counting, list);
  std::size_t count = 1;
  while (va_arg(counting, const char *) != nullptr) ++count;
  va_end(counting);
  auto **arguments = static_cast<char **>(__builtin_alloca((count + 1) * sizeof(char *)));
  arguments[0] = const_cast<char *>(first);
  for (std::size_t i = 1; i <= count; ++i) arguments[i] = va_arg(list, char *);
  return run(arguments);
}

}  // namespace

extern "C" {

void _exit(int status) {
  before_exit();
  bound()._exit(status);
  __builtin_unreachable();
}

void _Exit(int status) noexcept {
  before_exit();
  bound()._Exit(status);
  __builtin_unreachable();
}

int execve(const char *path, char *const arguments[], char *const environment[]) noexcept {
  return execute(path, arguments, environment);
}

int execv(const char *path, char *const arguments[]) noexcept {
  return execute(path, arguments, environ);
}

int execvp(const char *file, char *const arguments[]) noexcept {
  return execute_in_path(file, arguments, environ);
}

int execvpe(const char *file, char *const arguments[], char *const environment[]) noexcept {
  return execute_in_path(file, arguments, environment);
}

int execl(const char *path, const char *argument, ...) noexcept {
  va_list list;
  va_start(list, argument);
  int result = with_list(argument, list,
                         [&](char **arguments) { return execute(path, arguments, environ); });
  va_end(list);
  return result;
}

int execle(const char *path, const char *argument, ...) noexcept {
  va_list list;
  va_start(list, argument);
  va_list behind;
  va_copy(behind, list);
  while (va_arg(behind, const char *) != nullptr) {
  }
  auto **environment = va_arg(behind, char **);
  va_end(behind);
  int result = with_list(argument, list,
                         [&](char **arguments) { return execute(path, arguments, environment); });
  va_end(list);
  return result;
}

int execlp(const char *file, const char *argument, ...) noexcept {
  va_list list;
  va_start(list, argument);
  int result = with_list(
      argument, list, [&](char **arguments) { return execute_in_path(file, arguments, environ); });
  va_end(list);
  return result;
}

int execveat(int directory, const char *path, char *const arguments[], char *const environment[],
             int flags) noexcept {
  if (bound().execveat == nullptr) return fail(ENOSYS);
  boot::Target target = boot::judge_target_at(directory, path, flags);
  if (!boot::may_start(target, path)) return fail(EACCES);
  Departure departure(target, true);
  return boot::with_repaired(environment, departure.hand_over.variable(),
                             [&](char *const repaired[]) {
                               return next.execveat(directory, path, arguments, repaired, flags);
                             });
}

int fexecve(int fd, char *const arguments[], char *const environment[]) noexcept {
  bound();
  boot::Target target = boot::judge_target_at(fd, "", AT_EMPTY_PATH);
  if (!boot::may_start(target, "")) return fail(EACCES);
  Departure departure(target, true);
  return boot::with_repaired(
      environment, departure.hand_over.variable(),
      [&](char *const repaired[]) { return next.fexecve(fd, arguments, repaired); });
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const arguments[],
                char *const environment[]) {
  bound();
  boot::Target target = boot::judge_target(path);
  if (!boot::may_start(target, path)) return EACCES;
  auto spawn = [&](pid_t *child, const posix_spawn_file_actions_t *given, char *const repaired[]) {
    return next.posix_spawn(child, path, given, attributes, arguments, repaired);
  };
  return spawn_with(spawn, target, pid, actions, environment);
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[],
                 char *const environment[]) {
  bound();
  boot::Target target = boot::judge_target_in_path(file);
  if (!boot::may_start(target, file)) return EACCES;
  auto spawn = [&](pid_t *child, const posix_spawn_file_actions_t *given, char *const repaired[]) {
    return next.posix_spawnp(child, file, given, attributes, arguments, repaired);
  };
  return spawn_with(spawn, target, pid, actions, environment);
}

int system(const char *command) {
  bound();
  int result = -1;
  bool may_start = Shell::call([&] {
    note_giving();
    boot::with_own_environment(nullptr, [&] { result = next.system(command); });
  });
  return may_start ? result : fail(EACCES);
}

int wordexp(const char *words, wordexp_t *result, int flags) {
  bound();
  int error = WRDE_NOSPACE;
  bool may_start = Shell::call([&] {
    note_giving();
    boot::with_own_environment(nullptr, [&] { error = next.wordexp(words, result, flags); });
  });
  return may_start ? error : WRDE_CMDSUB;
}

int prctl(int option, ...) noexcept {
  va_list list;
  va_start(list, option);
  unsigned long a = va_arg(list, unsigned long), b = va_arg(list, unsigned long),
                c = va_arg(list, unsigned long), d = va_arg(list, unsigned long);
  va_end(list);
  if (option != PR_SET_SECCOMP || !boot::active()) return next.prctl(option, a, b, c, d);
  before_filter();
  boot::WiderFilter filter(a == SECCOMP_MODE_FILTER ? reinterpret_cast<const sock_fprog *>(b)
                                                    : nullptr);
  if (a == SECCOMP_MODE_FILTER) b = reinterpret_cast<unsigned long>(filter.program());
  int result = next.prctl(option, a, b, c, d);
  if (result == 0) boot::note_sandbox();
  return result;
}

// From there on the log's folder and the agent's socket may be out of reach.
int chroot(const char *path) noexcept {
  if (boot::active() && !in_foreign_process()) {
    const bool has_agent = !agent_socket().empty();
    if (has_agent || has_sockets()) boot::open_log();
    if (has_agent) keep_helper();
  }
  return bound().chroot(path);
}

int unshare(int flags) noexcept {
  if (!boot::active() || in_foreign_process()) return bound().unshare(flags);
  constexpr int kAlone = CLONE_NEWUSER | CLONE_THREAD | CLONE_VM | CLONE_SIGHAND | CLONE_FILES;
  HelperAside aside(flags, (flags & kAlone) != 0);
  return next.unshare(flags);
}

int setns(int fd, int kind) noexcept {
  if (!boot::active() || in_foreign_process()) return bound().setns(fd, kind);
  // 0 is any kind; a process's descriptor has none.
  long actual = kind != 0 ? kind : kernel::call(SYS_ioctl, fd, NS_GET_NSTYPE);
  int spaces = actual < 0 ? 0 : static_cast<int>(actual);
  HelperAside aside(spaces, (spaces & (CLONE_NEWUSER | CLONE_NEWNS)) != 0);
  return next.setns(fd, kind);
}

}  // extern "C"
