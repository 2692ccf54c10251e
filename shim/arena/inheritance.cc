#include "shim/arena/inheritance.h"

#include <climits>
#include <cstring>

namespace inlay::shim {
namespace {

char *append(char *end, std::uint64_t number, char separator) noexcept {
  char digits[20];
  unsigned length = 0;
  do digits[length++] = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  while (length > 0) *end++ = digits[--length];
  *end++ = separator;
  return end;
}

// Decimal, up to `most`, ended by one of `separators` (its null included), which it returns through
// `separator`. False for anything else.
bool take(const char *&at, std::uint64_t most, const char *separators, char *separator,
          std::uint64_t *number) noexcept {
  std::uint64_t value = 0;
  const char *begin = at;
  for (; *at >= '0' && *at <= '9'; ++at) {
    auto digit = static_cast<std::uint64_t>(*at - '0');
    if (value > (most - digit) / 10) return false;
    value = value * 10 + digit;
  }
  if (at == begin || std::strchr(separators, *at) == nullptr) return false;
  *separator = *at;
  if (*at != '\0') ++at;
  *number = value;
  return true;
}

}  // namespace

void format_inheritance(const Inheritance &inheritance, char (&text)[kInheritanceSize]) noexcept {
  std::memcpy(text, kArenaVariable, sizeof kArenaVariable);
  char *end = text + sizeof kArenaVariable - 1;
  for (unsigned i = 0; i < inheritance.count; ++i) {
    end = append(end, static_cast<std::uint64_t>(inheritance.arenas[i].fd), ':');
    end = append(end, inheritance.arenas[i].inode, i + 1 < inheritance.count ? ',' : ';');
  }
  append(end, inheritance.token, '\0');
}

Inheritance parse_inheritance(const char *value) noexcept {
  Inheritance found;
  std::uint64_t fd = 0, inode = 0, token = 0;
  for (char separator = ','; separator == ',';) {
    if (found.count == kMaxInherited || !take(value, INT_MAX, ":", &separator, &fd) ||
        separator != ':' || !take(value, UINT64_MAX, ",;", &separator, &inode) ||
        separator == '\0') {
      return {};
    }
    found.arenas[found.count++] = {static_cast<int>(fd), inode};
  }
  char separator = '\0';
  if (!take(value, UINT64_MAX, "", &separator, &token)) return {};
  found.token = token;
  return found;
}

}  // namespace inlay::shim
