#include "identity/rpc/worker.h"

#include <system_error>
#include <utility>

namespace inlay::identity::rpc {

void Worker::end() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  given_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool Worker::give(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    if (ending_ || jobs_.size() >= most_) return false;
    if (!thread_.joinable()) try {
        thread_ = std::thread([this] { run(); });
      } catch (const std::system_error &) {
        return false;  // no thread to be had now
      }
    jobs_.push_back(std::move(job));
  }
  given_.notify_one();
  return true;
}

void Worker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    given_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace inlay::identity::rpc
