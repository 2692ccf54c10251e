// The policy of a running process, followed as its file changes.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "policy/policy.h"

namespace inlay::policy {

// current() and generation() are for any thread and for hooks: one atomic load each. The rest is
// for one caller at a time, outside hooks. What current() ever returned stays valid as long as the
// LivePolicy lives: readers hold it without locks, so nobody can know when the last is done. A
// file that is rewritten without a change of meaning costs nothing.
class LivePolicy {
 public:
  // `owners` as for load(). Nothing is read before the first refresh(). "" follows no file: policies
  // come by replace().
  explicit LivePolicy(std::string file, std::vector<uid_t> owners = {}, bool strict = false);
  // Begins with a policy another process read (a snapshot): refresh() follows its source.
  LivePolicy(Policy first, std::vector<uid_t> owners);
  ~LivePolicy();
  LivePolicy(const LivePolicy &) = delete;
  LivePolicy &operator=(const LivePolicy &) = delete;

  // The last good policy; null when none was ever good.
  const Policy *current() const noexcept { return current_.load(std::memory_order_acquire); }
  // Grows by one with every change of current(); 0 while it is null.
  std::uint64_t generation() const noexcept { return generation_.load(std::memory_order_acquire); }

  // Looks at the file (one stat) and loads it when it is not the one seen last. Cheap enough to
  // call once a second. True when current() changed. A file that cannot be loaded changes nothing
  // but last_error(). What comes from the launcher stays in force: `strict`, and the addresses
  // resolved for names that still are in a rule.
  bool refresh();
  // Takes what somebody else read, as refresh() takes a file. True when current() changed. Throws
  // std::bad_alloc: then nothing has changed, and the policy has to be asked for again.
  bool replace(Policy policy);
  // Why the newest file is not in force, one line "FILE:LINE:COLUMN: MESSAGE"; empty when it is.
  const std::string &last_error() const { return last_error_; }

 private:
  bool take(Policy policy);
  void adopt(std::unique_ptr<const Policy> policy);

  std::string file_;
  std::vector<uid_t> owners_;
  bool strict_;
  Source seen_;           // what stat said of the file last looked at, good or not
  bool settled_ = false;  // seen_ is old enough that a further change would show in it
  std::string last_error_;
  std::vector<std::unique_ptr<const Policy>> all_;
  std::atomic<const Policy *> current_{nullptr};
  std::atomic<std::uint64_t> generation_{0};
};

}  // namespace inlay::policy
