#include "identity/agent/work_queue.h"

#include <utility>

namespace inlay::identity::agent {

WorkQueue::WorkQueue(std::size_t threads, std::size_t of_a_user) : of_a_user_(of_a_user) {
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
    auto found = users_.find(user);
    if (found == users_.end()) {
      std::list<uid_t> turn{user};
      found = users_.try_emplace(user).first;
      found->second.turn.swap(turn);
    }
    try {
      found->second.jobs.push_back(std::move(job));
    } catch (...) {
      settle(found);
      throw;
    }
    settle(found);
  }
  given_.notify_one();
}

// Puts the user where it belongs now: in line, out of it, or away. Allocates nothing.
void WorkQueue::settle(std::map<uid_t, User>::iterator user) {
  User &of = user->second;
  if (!of.turn.empty() && !of.jobs.empty() && of.running < of_a_user_) {
    turns_.splice(turns_.end(), of.turn);
  }
  if (of.jobs.empty() && of.running == 0) users_.erase(user);
}

void WorkQueue::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    given_.wait(lock, [this] { return ending_ || !turns_.empty(); });
    if (ending_) return;
    const auto user = users_.find(turns_.front());
    User &of = user->second;
    std::function<void()> job = std::move(of.jobs.front());
    of.jobs.pop_front();
    ++of.running;
    of.turn.splice(of.turn.end(), turns_, turns_.begin());
    settle(user);
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
    --of.running;
    // Nobody else is told when this one may go on: it is this thread that looks next.
    settle(user);
  }
}

}  // namespace inlay::identity::agent
