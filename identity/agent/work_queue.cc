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
    auto &jobs = jobs_[user];
    if (jobs.empty()) turns_.push_back(user);
    jobs.push_back(std::move(job));
  }
  given_.notify_one();
}

void WorkQueue::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    given_.wait(lock, [this] { return ending_ || !turns_.empty(); });
    if (ending_) return;
    const uid_t user = turns_.front();
    turns_.pop_front();
    auto found = jobs_.find(user);
    std::function<void()> job = std::move(found->second.front());
    found->second.pop_front();
    if (found->second.empty()) {
      jobs_.erase(found);
    } else {
      turns_.push_back(user);
    }
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
  }
}

}  // namespace inlay::identity::agent
