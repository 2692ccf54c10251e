// syslog() speaks to /dev/log over a socket of AF_UNIX, which is none of inlay's business.
// LOG_PERROR writes a copy to standard error inside the C library: once a connection is there, the
// copy is written here, in the C library's words.

#include <syslog.h>

#include <atomic>

#include "shim/boot/heap.h"
#include "shim/hooks/hook.h"

using namespace inlay::shim;

namespace {

// openlog()'s arguments; the C library keeps the pointer as well.
std::atomic<const char *> g_name{nullptr};
std::atomic<int> g_options{0};
std::atomic<int> g_facility{0};
std::atomic<bool> g_taken_over{false};

bool copies_here() {
  if ((g_options.load(std::memory_order_acquire) & LOG_PERROR) == 0) return false;
  if (!g_taken_over.load(std::memory_order_acquire)) {
    if (managed(STDERR_FILENO) == nullptr) return false;
    bound().openlog(g_name, g_options & ~LOG_PERROR, g_facility);
    g_taken_over.store(true, std::memory_order_release);
  }
  return true;
}

// "name[pid]: message" and the end of a line.
void write_copy(int priority, const char *format, va_list arguments) {
  if ((setlogmask(0) & LOG_MASK(LOG_PRI(priority))) == 0) return;
  int saved = errno;
  const char *name = g_name.load(std::memory_order_acquire);
  if (name == nullptr) name = program_invocation_short_name;
  bool has_id = (g_options.load(std::memory_order_acquire) & LOG_PID) != 0;
  va_list again;
  va_copy(again, arguments);
  errno = saved;  // %m
  int length = vsnprintf(nullptr, 0, format, again);
  va_end(again);
  auto *text =
      length < 0 ? nullptr : static_cast<char *>(boot::allocate(static_cast<size_t>(length) + 2));
  if (text != nullptr) {
    va_copy(again, arguments);
    errno = saved;
    vsnprintf(text, static_cast<size_t>(length) + 1, format, again);
    va_end(again);
    const char *end = length > 0 && text[length - 1] == '\n' ? "" : "\n";
    if (has_id) {
      dprintf(STDERR_FILENO, "%s[%d]: %s%s", name, getpid(), text, end);
    } else {
      dprintf(STDERR_FILENO, "%s: %s%s", name, text, end);
    }
    boot::release(text);
  }
  errno = saved;
}

void log_with(int priority, int flag, const char *format, va_list arguments) {
  bound();
  if (copies_here()) {
    va_list again;
    va_copy(again, arguments);
    write_copy(priority, format, again);
    va_end(again);
  }
  if (flag >= 0) {
    next.__vsyslog_chk(priority, flag, format, arguments);
  } else {
    next.vsyslog(priority, format, arguments);
  }
}

}  // namespace

extern "C" {

void openlog(const char *name, int options, int facility) {
  g_name.store(name, std::memory_order_release);
  g_facility.store(facility, std::memory_order_release);
  g_options.store(options, std::memory_order_release);
  g_taken_over.store(false, std::memory_order_release);
  bound().openlog(name, options, facility);
}

void syslog(int priority, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  log_with(priority, -1, format, arguments);
  va_end(arguments);
}

void vsyslog(int priority, const char *format, va_list arguments) {
  log_with(priority, -1, format, arguments);
}

void __syslog_chk(int priority, int flag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  log_with(priority, flag, format, arguments);
  va_end(arguments);
}

void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments) {
  log_with(priority, flag, format, arguments);
}

}  // extern "C"
