// gmtime_r and timegm for what libinlay.so is linked with, OpenSSL above all; local to the library,
// by the export map. The C library's look at the time zone first, which universal time does not
// have: they open a file at the lowest free number, allocate the host's memory and wait for its
// locks, such as the one fork() and fflush(NULL) hold.

#include <cerrno>
#include <chrono>
#include <ctime>

using std::chrono::sys_days;
using Days = std::chrono::days;

namespace {

constexpr std::time_t kDay = 24 * 60 * 60;

}  // namespace

extern "C" {

struct tm *gmtime_r(const std::time_t *time, struct tm *result) noexcept {
  std::time_t day = *time / kDay, second = *time % kDay;
  if (second < 0) {
    --day;
    second += kDay;
  }
  constexpr std::time_t kMostDays = 11'000'000;  // a year of std::chrono ends at 32767
  if (day < -kMostDays || day > kMostDays) {
    errno = EOVERFLOW;
    return nullptr;
  }
  const sys_days at{Days{day}};
  const std::chrono::year_month_day date{at};
  const sys_days first = date.year() / 1 / 1;
  *result = {};
  result->tm_year = static_cast<int>(date.year()) - 1900;
  result->tm_mon = static_cast<int>(static_cast<unsigned>(date.month())) - 1;
  result->tm_mday = static_cast<int>(static_cast<unsigned>(date.day()));
  result->tm_yday = static_cast<int>((at - first).count());
  result->tm_wday = static_cast<int>(std::chrono::weekday{at}.c_encoding());
  result->tm_hour = static_cast<int>(second / 3600);
  result->tm_min = static_cast<int>(second / 60 % 60);
  result->tm_sec = static_cast<int>(second % 60);
  result->tm_zone = "GMT";
  return result;
}

std::time_t timegm(struct tm *parts) noexcept {
  int years = parts->tm_mon / 12, month = parts->tm_mon % 12;
  if (month < 0) {
    --years;
    month += 12;
  }
  const std::chrono::year year{parts->tm_year + 1900 + years};
  const sys_days first = year / std::chrono::month{static_cast<unsigned>(month) + 1} / 1;
  const std::time_t day = (first.time_since_epoch() + Days{parts->tm_mday - 1}).count();
  const std::time_t time =
      day * kDay + parts->tm_hour * 3600L + parts->tm_min * 60L + parts->tm_sec;
  gmtime_r(&time, parts);  // mday and hours beyond their range are carried over
  return time;
}

}  // extern "C"
