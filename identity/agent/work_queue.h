// Threads that do what is given them, users in turn: whoever gives thousands of jobs delays his
// own, and whoever's jobs take long leaves a thread for others.
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
  // `of_a_user` of the threads at most work for one user at a time.
  WorkQueue(std::size_t threads, std::size_t of_a_user);
  // Drops what waits, and waits for what runs.
  ~WorkQueue();
  WorkQueue(const WorkQueue &) = delete;
  WorkQueue &operator=(const WorkQueue &) = delete;

  // A job throws nothing. Any thread. Throws std::bad_alloc, and has not taken it then.
  void give(uid_t user, std::function<void()> job);

 private:
  struct User {
    std::deque<std::function<void()>> jobs;
    std::size_t running = 0;
    std::list<uid_t> turn;  // its own number, while it is not in turns_
  };
  void work();
  void settle(std::map<uid_t, User>::iterator user);

  const std::size_t of_a_user_;
  std::mutex mutex_;
  std::condition_variable given_;
  std::map<uid_t, User> users_;  // with jobs, waiting or running
  std::list<uid_t> turns_;       // those with jobs that may run, each once
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace inlay::identity::agent
