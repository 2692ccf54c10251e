#include "shim/boot/json_line.h"

#include <arpa/inet.h>

#include <cstring>
#include <ctime>
#include <string_view>

#include "policy/reason.h"
#include "shim/arena/published.h"

namespace inlay::shim::boot {
namespace {

// The length of the well-formed sequence (RFC 3629 §4) a text begins with, which is not ASCII; 0
// when it begins with none.
std::size_t utf8_sequence(std::string_view text) noexcept {
  auto at = [text](std::size_t i) {
    return static_cast<unsigned char>(i < text.size() ? text[i] : 0);
  };
  const unsigned char first = at(0), second = at(1);
  std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  bool outside = (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f);
  return overlong || outside ? 0 : length;
}

class Line {
 public:
  Line(char *text, std::size_t size) noexcept : text_(text), size_(size) {}

  void raw(std::string_view text) noexcept {
    for (char c : text) put(c);
  }
  void number(std::uint64_t value) noexcept {
    char digits[20];
    std::size_t length = 0;
    do digits[length++] = static_cast<char>('0' + value % 10);
    while ((value /= 10) != 0);
    while (length > 0) put(digits[--length]);
  }
  void padded(std::uint64_t value, int width) noexcept {
    std::uint64_t unit = 1;
    for (int i = 1; i < width; ++i) unit *= 10;
    for (; unit != 0; unit /= 10) put(static_cast<char>('0' + value / unit % 10));
  }
  // RFC 8259 §7. Names may hold any bytes: what is no UTF-8 becomes U+FFFD, one for each byte.
  void string(std::string_view text) noexcept {
    constexpr const char kHex[] = "0123456789abcdef";
    put('"');
    while (!text.empty()) {
      auto byte = static_cast<unsigned char>(text.front());
      std::size_t taken = 1;
      if (byte == '"' || byte == '\\') {
        put('\\');
        put(text.front());
      } else if (byte < 0x20 || byte == 0x7f) {
        raw("\\u00");
        put(kHex[byte >> 4]);
        put(kHex[byte & 15]);
      } else if (byte < 0x80) {
        put(text.front());
      } else if (std::size_t length = utf8_sequence(text); length != 0) {
        raw(text.substr(0, length));
        taken = length;
      } else {
        raw("\\ufffd");
      }
      text.remove_prefix(taken);
    }
    put('"');
  }
  std::size_t length() const noexcept { return length_; }

 private:
  void put(char c) noexcept {
    if (length_ < size_) text_[length_++] = c;
  }
  char *text_;
  std::size_t size_;
  std::size_t length_ = 0;
};

// RFC 3339 in UTC. gmtime_r takes the C library's time zone lock; this does not.
void put_time(Line &line, std::int64_t time_ns) noexcept {
  std::int64_t seconds = time_ns / 1'000'000'000;
  std::int64_t days = seconds / 86400;
  std::int64_t rest = seconds % 86400;
  // Days to a civil date, years starting in March so that the leap day is the last.
  std::int64_t shifted = days + 719468;
  std::int64_t era = shifted / 146097;
  std::int64_t day_of_era = shifted - era * 146097;
  std::int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  std::int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  std::int64_t month_from_march = (5 * day_of_year + 2) / 153;
  std::int64_t day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
  std::int64_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
  std::int64_t year = year_of_era + era * 400 + (month <= 2 ? 1 : 0);
  auto part = [&line](std::int64_t value, int width, const char *after) {
    line.padded(static_cast<std::uint64_t>(value), width);
    line.raw(after);
  };
  part(year, 4, "-");
  part(month, 2, "-");
  part(day, 2, "T");
  part(rest / 3600, 2, ":");
  part(rest / 60 % 60, 2, ":");
  part(rest % 60, 2, ".");
  part(time_ns % 1'000'000'000, 9, "Z");
}

void put_endpoint(Line &line, const char *key, const std::uint8_t *address,
                  std::uint16_t port) noexcept {
  constexpr std::uint8_t kNone[16] = {};
  constexpr std::uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (port == 0 && std::memcmp(address, kNone, sizeof kNone) == 0) return;
  char text[INET6_ADDRSTRLEN] = {};
  bool v4 = std::memcmp(address, kMapped, sizeof kMapped) == 0;
  if (v4) {
    inet_ntop(AF_INET, address + 12, text, sizeof text);
  } else {
    inet_ntop(AF_INET6, address, text, sizeof text);
  }
  line.raw(",\"");
  line.raw(key);
  line.raw(v4 ? "\":\"" : "\":\"[");
  line.raw(text);
  line.raw(v4 ? ":" : "]:");
  line.number(port);
  line.raw("\"");
}

void put_text(Line &line, const char *key, const char *text) noexcept {
  if (text[0] == '\0') return;
  line.raw(",\"");
  line.raw(key);
  line.raw("\":");
  line.string(text);
}

}  // namespace

std::size_t format_json_line(const policy::LogRecord &record, const policy::LogFile &process,
                             char *text, std::size_t size) noexcept {
  Line line(text, size - 1);  // the newline always fits
  line.raw("{\"time\":\"");
  put_time(line, record.time_ns);
  line.raw("\",\"pid\":");
  line.number(process.pid);
  put_text(line, "executable", process.executable);
  put_text(line, "program", record.program);
  line.raw(",\"tid\":");
  line.number(record.tid);
  line.raw(",\"event\":\"");
  line.raw(policy::name(record.event));
  line.raw("\",\"reason\":\"");
  line.raw(policy::name(record.reason));
  line.raw("\"");
  if (record.direction != policy::Direction::none) {
    line.raw(",\"direction\":\"");
    line.raw(policy::name(record.direction));
    line.raw("\"");
  }
  if (static_cast<std::int32_t>(record.fd) >= 0) {
    line.raw(",\"fd\":");
    line.number(record.fd);
  }
  put_endpoint(line, "local", record.local_address, record.local_port);
  put_endpoint(line, "remote", record.remote_address, record.remote_port);
  put_text(line, "rule", record.rule);
  put_text(line, "own_id", published(process.own_id));
  put_text(line, "peer_id", record.peer_id);
  put_text(line, "detail", record.detail);
  if (record.event == policy::Event::closed || record.event == policy::Event::cut) {
    line.raw(",\"bytes_in\":");
    line.number(record.bytes_in);
    line.raw(",\"bytes_out\":");
    line.number(record.bytes_out);
  }
  line.raw(",\"version\":\"" INLAY_VERSION "\"}");
  text[line.length()] = '\n';
  return line.length() + 1;
}

}  // namespace inlay::shim::boot
