// The constructor, and everything that follows the process: fork, exit.
//
// -z initfirst runs the constructor before any other object's, libc's excepted. `environ` is not
// set yet then: the environment is the constructor's third argument.

#include <fcntl.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "identity/file.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/gate.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/clock.h"
#include "shim/boot/environment.h"
#include "shim/boot/forking.h"
#include "shim/boot/heap.h"
#include "shim/boot/level.h"
#include "shim/boot/log.h"
#include "shim/boot/own_table.h"
#include "shim/boot/sandbox.h"
#include "shim/boot/state.h"
#include "shim/boot/streams.h"
#include "shim/hooks/next.h"
#include "shim/session/contained.h"
#include "shim/session/fork.h"
#include "shim/session/hand_over.h"
#include "shim/session/parcel.h"
#include "shim/session/runtime.h"
#include "shim/session/session.h"

// Registration with no object's handle: such a handler is not run when some library is unloaded,
// and, registered first, it runs after all others.
extern "C" int __cxa_atexit(void (*handler)(void *), void *argument, void *object);
extern "C" int __cxa_at_quick_exit(void (*handler)(void *), void *object);

namespace inlay::shim::boot {

constinit std::atomic<Level> g_level{Level::unbound};

void before_fork() noexcept {
  streams_before_fork();
  session_before_fork();
  heap_before_fork();
}
void after_fork_parent() noexcept {
  heap_after_fork();
  session_after_fork_parent();
  streams_after_fork_parent();
}
void after_fork_child() noexcept {
  streams_after_fork_child();
  heap_after_fork();
  session_after_fork_child();
}

namespace {

const char *value_of(char *const environment[], const char *name) noexcept {
  std::size_t length = std::strlen(name);
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    if (std::strncmp(*environment, name, length) == 0 && (*environment)[length] == '=') {
      const char *value = *environment + length + 1;
      return *value == '\0' ? nullptr : value;
    }
  }
  return nullptr;
}

// The last handler: only the C library's own flush of its streams comes after it.
void at_exit(void *) {
  if (in_foreign_process()) return;
  int saved = errno;
  flush_streams();
  flush_everything(false);
  end_log();
  errno = saved;
}
// quick_exit() and _exit() flush no streams.
void at_quick_exit(void *) {
  if (in_foreign_process()) return;
  flush_everything(false);
  end_log();
}

void report_at_start(policy::Reason reason, const char *detail) noexcept {
  LogFields fields;
  fields.reason = reason;
  fields.detail = detail;
  log_event(fields);
}

void start(char *const environment[]) noexcept {
  const char *config = value_of(environment, "INLAY_CONFIG");
  // Whoever starts a setuid program must not choose its policy.
  if (config == nullptr || getauxval(AT_SECURE) != 0) {
    g_level.store(Level::inert, std::memory_order_release);
    return;
  }
  // The filter outlives a program that drops the variable.
  const char *strict = value_of(environment, "INLAY_STRICT");
  bool contained = is_contained();
  bool is_strict = contained || (strict != nullptr && std::strcmp(strict, "1") == 0);
  bool gate_open = contained && open_gate();
  if (gate_open) pass_through_gate();
  const char *arenas = value_of(environment, "INLAY_ARENA");
  const Inheritance inherited = parse_inheritance(arenas == nullptr ? "" : arenas);
  const bool all_came = unpack(inherited.parcel);
  bind_clock();
  give_heap_to_openssl();
  remember_environment(environment);
  remember_strictness(is_strict);
  // Without its tables inlay can tell no socket from another, and no child from its parent: every
  // connection that may not be in the clear is then refused.
  bool has_page = make_process_page();
  session_begin();
  bool streams_are_hooked = point_streams_at_hooks();
  if (has_page && streams_are_hooked) make_descriptor_table();
  load_policy({.file = config,
               .snapshot = value_of(environment, "INLAY_SNAPSHOT"),
               .owners = value_of(environment, "INLAY_CONFIG_OWNER"),
               .strict = is_strict});
  identity::open_files_apart({in_own_table, [](int fd) noexcept { kernel::close(fd); }});
  remember_identity();
  if (contained && !gate_open) {
    report_at_start(policy::Reason::out_of_resources,
                    "no room for the gate page at 0x70000000: every TCP socket gives EACCES");
  }
  if (!streams_are_hooked) {
    report_at_start(policy::Reason::stdio_unprotected,
                    "the C library's streams cannot be reached: every TCP connection that policy "
                    "protects is refused");
  }
  pthread_atfork(before_fork, after_fork_parent, after_fork_child);
  __cxa_atexit(at_exit, nullptr, nullptr);
  __cxa_at_quick_exit(at_quick_exit, nullptr);
  g_level.store(Level::ready, std::memory_order_release);
  take_over(inherited);
  if (!all_came) {
    report_at_start(policy::Reason::inherited_unknown,
                    "a connection that was handed over to this program did not come");
  }
}

// The environment the kernel handed over, for a hook called before the constructor.
constexpr std::size_t kMaxEnvironment = 4u << 20;
char *const *early_environment() noexcept {
  long fd =
      kernel::call(SYS_openat, AT_FDCWD, kernel::word("/proc/self/environ"), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return nullptr;
  auto *text = static_cast<char *>(allocate(kMaxEnvironment));
  std::size_t length = 0;
  while (text != nullptr && length < kMaxEnvironment - 1) {
    long got = kernel::call(SYS_read, fd, kernel::word(text + length),
                            static_cast<long>(kMaxEnvironment - 1 - length));
    if (got <= 0) break;
    length += static_cast<std::size_t>(got);
  }
  kernel::close(static_cast<int>(fd));
  if (text == nullptr) return nullptr;
  text[length] = '\0';
  std::size_t count = 0;
  for (std::size_t i = 0; i < length; ++i) count += text[i] == '\0';
  auto **entries = static_cast<char **>(allocate((count + 2) * sizeof(char *)));
  if (entries == nullptr) return nullptr;
  std::size_t used = 0;
  for (std::size_t i = 0; i < length; i += std::strlen(text + i) + 1) entries[used++] = text + i;
  entries[used] = nullptr;
  return entries;
}

void boot_with(char *const environment[]) noexcept {
  bind_next();
  start(environment);
}

}  // namespace

bool activate() noexcept {
  Level level = g_level.load(std::memory_order_acquire);
  if (level == Level::unbound) {
    if (!g_level.compare_exchange_strong(level, Level::binding)) return false;
    int saved = errno;
    boot_with(early_environment());
    errno = saved;
    level = g_level.load(std::memory_order_acquire);
  }
  return level == Level::ready;
}

namespace {

[[gnu::constructor]] void construct(int, char **, char **environment) noexcept {
  Level level = Level::unbound;
  int saved = errno;
  if (g_level.compare_exchange_strong(level, Level::binding)) boot_with(environment);
  if (g_level.load(std::memory_order_acquire) == Level::ready) hide_messages(environment);
  errno = saved;
}

}  // namespace
}  // namespace inlay::shim::boot
