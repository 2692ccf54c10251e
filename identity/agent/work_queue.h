// Threads that do what is given them, users in turn: whoever gives thousands of jobs delays his
// own.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace inlay::identity::agent {

class WorkQueue {
 public:
  explicit WorkQueue(std::size_t threads);
  // Drops what waits, and waits for what runs.
  ~WorkQueue();
  WorkQueue(const WorkQueue &) = delete;
  WorkQueue &operator=(const WorkQueue &) = delete;

  // A job throws nothing. Any thread. Throws std::bad_alloc, and has not taken it then.
  void give(uid_t user, std::function<void()> job);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable given_;
  std::map<uid_t, std::deque<std::function<void()>>> jobs_;
  std::list<uid_t> turns_;  // users with jobs, each once
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace inlay::identity::agent
