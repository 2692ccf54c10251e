#include "shim/boot/state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "policy/live.h"
#include "policy/snapshot.h"
#include "shim/boot/heap.h"
#include "shim/arena/kernel.h"
#include "shim/boot/log.h"

namespace inlay::shim::boot {
namespace {

// Made once with new and never destroyed: hooks of other threads run until the very end.
constinit std::atomic<policy::LivePolicy *> g_live{nullptr};
std::string *g_logged_error = nullptr;

// "FD:INODE" as the launcher wrote it; -1 when it is not that.
int parse_snapshot(const char *text, std::uint64_t *inode) noexcept {
  char *end = nullptr;
  errno = 0;
  long fd = std::strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != ':' || fd < 0 || fd > INT_MAX) return -1;
  const char *behind = end + 1;
  *inode = std::strtoull(behind, &end, 10);
  return errno != 0 || end == behind || *end != '\0' ? -1 : static_cast<int>(fd);
}

// A memfd nobody can change any more, made by this user or by root. The inode tells it from another
// descriptor that took the number in a program between.
bool is_sealed(int fd, std::uint64_t inode, std::size_t *size) noexcept {
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  struct stat info {};
  if (kernel::call(SYS_fstat, fd, kernel::word(&info)) != 0 || info.st_ino != inode ||
      !S_ISREG(info.st_mode) || info.st_size <= 0) {
    return false;
  }
  long seals = kernel::call(SYS_fcntl, fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) return false;
  if (info.st_uid != 0 && static_cast<long>(info.st_uid) != kernel::call(SYS_geteuid)) return false;
  *size = static_cast<std::size_t>(info.st_size);
  return true;
}

// Empty when there is no usable snapshot: the file is read then, so a broken one costs time only.
std::optional<policy::Policy> from_snapshot(const char *text) {
  std::uint64_t inode = 0;
  std::size_t size = 0;
  int fd = parse_snapshot(text, &inode);
  if (fd < 0 || !is_sealed(fd, inode, &size)) return std::nullopt;
  long base = kernel::call(SYS_mmap, 0, static_cast<long>(size), PROT_READ, MAP_PRIVATE, fd, 0);
  kernel::close(fd);
  if (base < 0 && base > -4096) return std::nullopt;
  auto parsed = policy::deserialize({reinterpret_cast<const char *>(base), size});
  kernel::call(SYS_munmap, base, static_cast<long>(size));
  if (!parsed) return std::nullopt;
  return *std::move(parsed);
}

// "1000,1001". What is not a number ends the list: nobody is trusted by mistake.
std::vector<uid_t> parse_owners(const char *text) {
  std::vector<uid_t> owners;
  while (text != nullptr && *text >= '0' && *text <= '9') {
    char *end = nullptr;
    errno = 0;
    unsigned long uid = std::strtoul(text, &end, 10);
    if (errno != 0 || uid > UINT32_MAX || (*end != ',' && *end != '\0')) break;
    owners.push_back(static_cast<uid_t>(uid));
    text = *end == ',' ? end + 1 : end;
  }
  return owners;
}

std::unique_ptr<policy::LivePolicy> make_live(const PolicySource &source) {
  std::vector<uid_t> owners = parse_owners(source.owners);
  std::optional<policy::Policy> first;
  if (source.snapshot != nullptr) first = from_snapshot(source.snapshot);
  if (first) {
    first->strict = first->strict || source.strict;
    return std::make_unique<policy::LivePolicy>(*std::move(first), std::move(owners));
  }
  auto live = std::make_unique<policy::LivePolicy>(source.file, std::move(owners), source.strict);
  live->refresh();
  return live;
}

void log_error(const policy::LivePolicy &live) {
  if (live.last_error() == *g_logged_error) return;
  *g_logged_error = live.last_error();
  if (live.last_error().empty()) return;
  LogFields fields;
  fields.event = policy::Event::notice;
  fields.reason = policy::Reason::policy_unreadable;
  fields.detail = live.last_error();
  log_event(fields);
}

void follow_log_file(const policy::Policy *policy) noexcept {
  start_log(policy == nullptr ? "" : policy->log_file.c_str());
}

}  // namespace

const policy::Policy *policy() noexcept {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  return live == nullptr ? nullptr : live->current();
}

std::uint64_t policy_generation() noexcept {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  return live == nullptr ? 0 : live->generation();
}

std::string_view policy_error() noexcept {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  return live == nullptr ? std::string_view("out of memory") : std::string_view(live->last_error());
}

bool refresh_policy() noexcept try {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  if (live == nullptr) return false;
  bool changed = live->refresh();
  if (changed) follow_log_file(live->current());
  log_error(*live);
  return changed;
} catch (const std::bad_alloc &) {
  return false;
}

void load_policy(const PolicySource &source) noexcept try {
  g_logged_error = new std::string;
  policy::LivePolicy *live = make_live(source).release();
  g_live.store(live, std::memory_order_release);
  follow_log_file(live->current());
  log_error(*live);
} catch (const std::bad_alloc &) {
  // policy() stays null: everything fails closed.
}

}  // namespace inlay::shim::boot
