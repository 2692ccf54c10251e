#include "identity/agent/waiting.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace inlay::identity::agent {
namespace {

void drain(int fd) {
  std::uint64_t count = 0;
  while (fd >= 0 && read(fd, &count, sizeof count) > 0) {
  }
}

}  // namespace

Waiting::Waiting()
    : woken_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      deadline_(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK)),
      clock_set_(timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK)) {
  watch_the_clock();
}

Waiting::~Waiting() {
  for (const int fd : {woken_, deadline_, clock_set_}) {
    if (fd >= 0) close(fd);
  }
}

// timerfd_create(2): with TFD_TIMER_CANCEL_ON_SET a discontinuous change of the clock makes the
// descriptor readable, and read() fails with ECANCELED. The time itself is the year 9999.
void Waiting::watch_the_clock() {
  const itimerspec never{.it_interval = {}, .it_value = {253402300799, 0}};
  if (clock_set_ >= 0) {
    timerfd_settime(clock_set_, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, nullptr);
  }
}

void Waiting::wait(std::int64_t milliseconds, int news_fd) {
  // Without descriptors of our own to wait on (EMFILE), look again soon.
  constexpr std::int64_t kWithoutTimers = 1000;
  milliseconds = std::max<std::int64_t>(milliseconds, 1);
  const itimerspec deadline{
      .it_interval = {},
      .it_value = {milliseconds / 1000, static_cast<long>(milliseconds % 1000) * 1000000}};
  const bool timed = deadline_ >= 0 && timerfd_settime(deadline_, 0, &deadline, nullptr) == 0;
  const bool complete = timed && woken_ >= 0 && clock_set_ >= 0;
  std::array<pollfd, 4> waited{
      {{woken_, POLLIN, 0}, {deadline_, POLLIN, 0}, {clock_set_, POLLIN, 0}, {news_fd, POLLIN, 0}}};
  poll(waited.data(), waited.size(),
       complete ? -1 : static_cast<int>(std::min(milliseconds, kWithoutTimers)));
  drain(woken_);
  drain(deadline_);
  if (waited[2].revents != 0) {
    drain(clock_set_);
    watch_the_clock();
  }
}

void Waiting::wake() {
  const std::uint64_t one = 1;
  if (woken_ >= 0) (void)!write(woken_, &one, sizeof one);
}

}  // namespace inlay::identity::agent
