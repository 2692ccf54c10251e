#include "policy/live.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <exception>
#include <new>

#include "policy/load.h"

namespace inlay::policy {
namespace {

// File times move with the kernel's tick (4 ms, 10 ms on some) or whole seconds on some file
// systems: two changes of the same length within one are told apart only by reading.
constexpr std::int64_t kSettleNs = 2'000'000'000;

bool settled(const Source &seen) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  std::int64_t now_ns = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  std::int64_t latest = std::max(seen.modified_ns, seen.changed_ns);
  // A time in the future says nothing about age; then the clock was set back, and ctime will do.
  return latest > now_ns || now_ns - latest > kSettleNs;
}

bool same_meaning(const Policy &a, const Policy &b) {
  return a.trust_domain == b.trust_domain && a.identity == b.identity && a.defaults == b.defaults &&
         a.log_file == b.log_file && a.inbound == b.inbound && a.outbound == b.outbound &&
         a.resolved == b.resolved && a.strict == b.strict;
}

bool names(const Policy &policy, const std::string &name) {
  return std::any_of(policy.outbound.begin(), policy.outbound.end(), [&](const auto &rule) {
    return std::find(rule.names.begin(), rule.names.end(), name) != rule.names.end();
  });
}

}  // namespace

LivePolicy::LivePolicy(std::string file, std::vector<uid_t> owners, bool strict)
    : file_(file.empty() ? file : absolute_path(file)), owners_(std::move(owners)), strict_(strict) {}

LivePolicy::LivePolicy(Policy first, std::vector<uid_t> owners)
    : file_(first.source.file),
      owners_(std::move(owners)),
      strict_(first.strict),
      seen_(first.source),
      settled_(settled(seen_)) {
  adopt(std::make_unique<const Policy>(std::move(first)));
}

LivePolicy::~LivePolicy() = default;

void LivePolicy::adopt(std::unique_ptr<const Policy> policy) {
  all_.push_back(std::move(policy));
  current_.store(all_.back().get(), std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
}

// What comes from the launcher stays: see refresh().
bool LivePolicy::take(Policy policy) {
  const Policy *before = current();
  policy.strict = strict_;
  if (before != nullptr) {
    for (const auto &pair : before->resolved) {
      const bool has_it = std::ranges::count(policy.resolved, pair) > 0;
      if (!has_it && names(policy, pair.first)) policy.resolved.push_back(pair);
    }
    if (same_meaning(*before, policy)) return false;
  }
  adopt(std::make_unique<const Policy>(std::move(policy)));
  return true;
}

bool LivePolicy::replace(Policy policy) { return take(std::move(policy)); }

bool LivePolicy::refresh() try {
  if (file_.empty()) return false;
  struct stat stat;
  Source now{.file = file_};
  if (::stat(file_.c_str(), &stat) == 0) now = source_of(file_, stat);
  if (now == seen_ && settled_) return false;

  auto loaded = load(file_, owners_);
  if (!loaded) {
    last_error_ = loaded.error().text();
    seen_ = std::move(now);
    // Without a line it is about the way to the file (a folder's mode, say), and what mends that
    // does not show in a look at the file: try again.
    settled_ = loaded.error().line != 0 && settled(seen_);
    return false;
  }
  last_error_.clear();
  seen_ = loaded->source;
  settled_ = settled(seen_);
  return take(*std::move(loaded));
} catch (const std::exception &) {  // bad_alloc: nothing has changed, the next call tries again
  settled_ = false;
  return false;
}

}  // namespace inlay::policy
