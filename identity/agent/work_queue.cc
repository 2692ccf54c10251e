#include "identity/agent/work_queue.h"

#include <utility>

namespace inlay::identity::agent {

WorkQueue::WorkQueue(std::size_t threads) {
  for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

WorkQueue::~WorkQueue() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  given_.notify_all();
  for (std::thread &thread : threads_) thread.join();
}

void WorkQueue::give(uid_t user, std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    std::list<uid_t> turn{user};
    auto &jobs = jobs_[user];
    const bool waited = jobs.empty();
    jobs.push_back(std::move(job));
    if (waited) turns_.splice(turns_.end(), turn);
  }
  given_.notify_one();
}

void WorkQueue::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    given_.wait(lock, [this] { return ending_ || !turns_.empty(); });
    if (ending_) return;
    auto found = jobs_.find(turns_.front());
    std::function<void()> job = std::move(found->second.front());
    found->second.pop_front();
    if (found->second.empty()) {
      jobs_.erase(found);
      turns_.pop_front();
    } else {
      turns_.splice(turns_.end(), turns_, turns_.begin());
    }
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
  }
}

}  // namespace inlay::identity::agent
