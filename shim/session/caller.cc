// What policy may ask about an outbound connection besides its address: the names the process
// resolved, the object that called connect, the frames above it. Advisory inside one address space.
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>

#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include "policy/host_name.h"
#include "shim/arena/kernel.h"
#include "shim/arena/lock.h"
#include "shim/session/runtime.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

using policy::Address;
using policy::Endpoint;

// Learned pairs: append-only, so that readers need no lock. They do not expire in a process.
struct Pair {
  Address address;
  std::string name;
  Pair *next;
};
constexpr std::size_t kBuckets = 64;
constexpr std::size_t kMaxPairs = 65536;  // a bound on what a program that resolves for ever costs
std::atomic<Pair *> g_pairs[kBuckets];
std::atomic<std::size_t> g_pair_count{0};

std::atomic<Pair *> &bucket(const Address &address) noexcept {
  unsigned hash = 0;
  for (std::uint8_t byte : address.bytes) hash = hash * 31 + byte;
  return g_pairs[hash % kBuckets];
}

bool known(const Address &address, std::string_view name) noexcept {
  for (Pair *pair = bucket(address).load(std::memory_order_acquire); pair != nullptr;
       pair = pair->next) {
    if (pair->address == address && pair->name == name) return true;
  }
  return false;
}

void learn(const Address &address, std::string name) {
  if (known(address, name)) return;
  if (g_pair_count.fetch_add(1, std::memory_order_relaxed) >= kMaxPairs) return;
  auto *pair = new Pair{address, std::move(name), nullptr};
  std::atomic<Pair *> &list = bucket(address);
  pair->next = list.load(std::memory_order_relaxed);
  while (!list.compare_exchange_weak(pair->next, pair, std::memory_order_acq_rel)) {
  }
}

// The system's libunwind, opened when a rule on frames first needs it. Linked in, its _Unwind_* would
// come before libgcc's for the whole program.
struct Unwinder {
  int (*get_context)(unw_tdep_context_t *) = nullptr;
  int (*init)(unw_cursor_t *, unw_context_t *) = nullptr;
  int (*step)(unw_cursor_t *) = nullptr;
  int (*get_register)(unw_cursor_t *, unw_regnum_t, unw_word_t *) = nullptr;
  int (*get_name)(unw_cursor_t *, char *, std::size_t, unw_word_t *) = nullptr;
  bool usable = false;
};

#define INLAY_TEXT(symbol) #symbol
#define INLAY_NAME(symbol) INLAY_TEXT(symbol)

const Unwinder &unwinder() noexcept {
  static Unwinder found;
  static std::atomic<bool> looked{false};
  static SharedLock lock;
  if (looked.load(std::memory_order_acquire)) return found;
  Locked guard(lock);
  if (guard.reentered() || looked.load(std::memory_order_acquire)) return found;
  if (void *library = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL)) {
    auto bind = [library](auto &function, const char *name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    found.usable = bind(found.get_context, INLAY_NAME(unw_tdep_getcontext)) &&
                   bind(found.init, INLAY_NAME(unw_init_local)) &&
                   bind(found.step, INLAY_NAME(unw_step)) &&
                   bind(found.get_register, INLAY_NAME(unw_get_reg)) &&
                   bind(found.get_name, INLAY_NAME(unw_get_proc_name));
  }
  looked.store(true, std::memory_order_release);
  return found;
}

const char *object_of(const void *address) noexcept {
  Dl_info info{};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

constexpr int kMaxFrames = 128;

// "OBJECT!FUNCTION", innermost first, inlay's own frames left out. False when unwinding failed.
bool walk(std::vector<std::string> &frames) {
  const Unwinder &unwind = unwinder();
  if (!unwind.usable) return false;
  unw_context_t context;
  unw_cursor_t cursor;
  if (unwind.get_context(&context) != 0 || unwind.init(&cursor, &context) != 0) return false;
  const std::string own = object_of(reinterpret_cast<const void *>(&walk));
  for (int count = 0; count < kMaxFrames; ++count) {
    unw_word_t address = 0;
    if (unwind.get_register(&cursor, UNW_REG_IP, &address) != 0) return false;
    const char *object = object_of(reinterpret_cast<const void *>(address));
    if (own != object) {
      char name[256] = "";
      unw_word_t offset = 0;
      unwind.get_name(&cursor, name, sizeof(name), &offset);
      frames.push_back(std::string(object) + "!" + name);
    }
    int more = unwind.step(&cursor);
    if (more == 0) return true;
    if (more < 0) return false;
  }
  return true;
}

std::string executable() {
  char path[4096];
  long length = kernel::call(SYS_readlinkat, AT_FDCWD, kernel::word("/proc/self/exe"),
                             kernel::word(path), sizeof(path));
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : std::string();
}

}  // namespace

bool wants_names() noexcept {
  const policy::Policy *policy = current_policy();
  return policy != nullptr && policy->needs_names();
}

void learn_name(const char *name, const sockaddr *address, socklen_t length) noexcept {
  std::optional<Endpoint> endpoint = Endpoint::from_sockaddr(address, length);
  if (!endpoint || name == nullptr) return;
  try {
    std::optional<std::string> normal = policy::normal_host_name(name);
    if (normal) learn(endpoint->address, std::move(*normal));
  } catch (...) {
    // An address without its name falls under the rules for unknown names: safe.
  }
}

policy::Decision decide_outbound(const policy::Policy &policy, const Endpoint &remote,
                                 const void *caller) noexcept {
  policy::OutboundQuery query;
  query.remote = remote;
  const int saved = errno;
  try {
    std::vector<std::string> names;
    std::vector<std::string> frames;
    std::string program;
    if (policy.needs_names()) {
      for (Pair *pair = bucket(remote.address).load(std::memory_order_acquire); pair != nullptr;
           pair = pair->next) {
        if (pair->address == remote.address) names.push_back(pair->name);
      }
      query.names = names;
    }
    if (policy.needs_module()) {
      if (caller != nullptr) query.module = object_of(caller);
      program = executable();
      query.executable = program;
    }
    if (policy.needs_frames()) {
      query.frames_known = walk(frames);
      query.frames = frames;
    }
    errno = saved;
    return policy::decide(policy, query);
  } catch (...) {
    errno = saved;
    return policy::Decision{.mode = policy::Mode::deny, .reason = policy::Reason::out_of_resources};
  }
}

}  // namespace inlay::shim
