#include "shim/arena/inheritance.h"

#include <climits>
#include <cstring>

namespace inlay::shim {
namespace {

char *append(char *end, std::uint64_t number) noexcept {
  char digits[20];
  unsigned length = 0;
  do digits[length++] = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  while (length > 0) *end++ = digits[--length];
  return end;
}

char *append(char *end, const ArenaDescriptor &one) noexcept {
  end = append(end, static_cast<std::uint64_t>(one.fd));
  *end++ = ':';
  return append(end, one.inode);
}

bool take(const char *&at, char separator) noexcept {
  if (*at != separator) return false;
  ++at;
  return true;
}

// Decimal, up to `most`.
bool take(const char *&at, std::uint64_t most, std::uint64_t *number) noexcept {
  std::uint64_t value = 0;
  const char *begin = at;
  for (; *at >= '0' && *at <= '9'; ++at) {
    auto digit = static_cast<std::uint64_t>(*at - '0');
    if (value > (most - digit) / 10) return false;
    value = value * 10 + digit;
  }
  *number = value;
  return at != begin;
}

bool take(const char *&at, ArenaDescriptor *one) noexcept {
  std::uint64_t fd = 0;
  if (!take(at, INT_MAX, &fd) || !take(at, ':') || !take(at, UINT64_MAX, &one->inode)) return false;
  one->fd = static_cast<int>(fd);
  return true;
}

}  // namespace

void format_inheritance(const Inheritance &inheritance, char (&text)[kInheritanceSize]) noexcept {
  std::memcpy(text, kArenaVariable, sizeof kArenaVariable);
  char *end = text + sizeof kArenaVariable - 1;
  for (unsigned i = 0; i < inheritance.count; ++i) {
    if (i > 0) *end++ = ',';
    end = append(end, inheritance.arenas[i]);
  }
  *end++ = ';';
  end = append(end, inheritance.token);
  *end++ = ';';
  const ParcelDescriptor &parcel = inheritance.parcel;
  end = append(end, ArenaDescriptor{parcel.fd < 0 ? 0 : parcel.fd, parcel.inode});
  *end++ = ':';
  end = append(end, parcel.count);
  *end = '\0';
}

Inheritance parse_inheritance(const char *value) noexcept {
  Inheritance found;
  ArenaDescriptor parcel;
  std::uint64_t count = 0;
  for (bool more = *value != ';'; more; more = take(value, ',')) {
    if (found.count == kMaxInherited || !take(value, &found.arenas[found.count++])) return {};
  }
  if (!take(value, ';') || !take(value, UINT64_MAX, &found.token) || !take(value, ';') ||
      !take(value, &parcel) || !take(value, ':') || !take(value, UINT64_MAX, &count) ||
      *value != '\0') {
    return {};
  }
  if (count != 0) found.parcel = {parcel.fd, parcel.inode, count};
  return found;
}

}  // namespace inlay::shim
