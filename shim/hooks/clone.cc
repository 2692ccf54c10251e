// clone(2) as a fork: containers and servers that put their children into namespaces make them so,
// past pthread_atfork. Threads, and children that share memory or descriptors, are left to the C
// library.
#include <sched.h>
#include <unistd.h>

#include "shim/boot/forking.h"
#include "shim/hooks/hook.h"

using namespace inlay::shim;

namespace {

struct Child {
  int (*run)(void *);
  void *argument;
};

// On the child's own stack, in its own copy of the memory. The C library would end no more than
// this thread when it returns: the helper's would be left.
int begin(void *child) {
  auto [run, argument] = *static_cast<Child *>(child);
  boot::after_fork_child();
  _exit(run(argument));
}

int make_child(int (*run)(void *), void *stack, int flags, void *argument, va_list list) {
  auto *parent_id = va_arg(list, pid_t *);
  void *storage = va_arg(list, void *);
  auto *child_id = va_arg(list, pid_t *);
  bool as_fork = run != nullptr && stack != nullptr &&
                 boot::forks(static_cast<unsigned long>(flags)) && boot::active() &&
                 !in_foreign_process();
  if (!as_fork) {
    return bound().clone(run, stack, flags, argument, parent_id, storage, child_id);
  }
  Child child{run, argument};
  return static_cast<int>(boot::as_fork(
      [&] { return next.clone(begin, stack, flags, &child, parent_id, storage, child_id); }));
}

}  // namespace

extern "C" {

int clone(int (*run)(void *), void *stack, int flags, void *argument, ...) noexcept {
  va_list list;
  va_start(list, argument);
  int child = make_child(run, stack, flags, argument, list);
  va_end(list);
  return child;
}

int __clone(int (*run)(void *), void *stack, int flags, void *argument, ...) noexcept {
  va_list list;
  va_start(list, argument);
  int child = make_child(run, stack, flags, argument, list);
  va_end(list);
  return child;
}

}  // extern "C"
