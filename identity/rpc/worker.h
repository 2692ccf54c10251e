// A thread that does what it is given, one after the other. It starts with the first.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace inlay::identity::rpc {

class Worker {
 public:
  // `most`: jobs that may wait.
  explicit Worker(std::size_t most) : most_(most) {}
  ~Worker() { end(); }
  // Does what waits, then takes nothing more.
  void end();
  Worker(const Worker &) = delete;
  Worker &operator=(const Worker &) = delete;

  // False when too many wait already, when there is no thread to be had, and after end().
  bool give(std::function<void()> job);

 private:
  void run();

  const std::size_t most_;
  std::mutex mutex_;
  std::condition_variable given_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace inlay::identity::rpc
