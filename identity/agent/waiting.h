// What the thread that renews waits for: time that passes even while the machine sleeps, a clock
// that is set, the source's news, and being woken.
#pragma once

#include <cstdint>

namespace inlay::identity::agent {

class Waiting {
 public:
  Waiting();
  ~Waiting();
  Waiting(const Waiting &) = delete;
  Waiting &operator=(const Waiting &) = delete;

  // At most `milliseconds`. `news_fd`: -1 or a descriptor that ends it by being readable.
  void wait(std::int64_t milliseconds, int news_fd);
  // Ends this wait or the next one. Any thread.
  void wake();

 private:
  void watch_the_clock();

  int woken_;     // eventfd
  int deadline_;  // timerfd, CLOCK_BOOTTIME: poll's own timeout stands still in a suspended machine
  int clock_set_;  // timerfd that is cancelled when somebody sets the clock
};

}  // namespace inlay::identity::agent
