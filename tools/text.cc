#include "tools/text.h"

#include <array>
#include <cstdint>
#include <cstdio>

namespace inlay::tools {
namespace {

struct Decoded {
  char32_t value = 0;
  std::size_t length = 0;  // 0: not UTF-8
};

// UTF-8 without overlong forms and surrogates (RFC 3629 §4).
Decoded decode(std::string_view text) {
  auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  std::uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  std::size_t length = lead >= 0xf0 && lead <= 0xf4   ? 4
                       : lead >= 0xe0 && lead <= 0xef ? 3
                       : lead >= 0xc2 && lead <= 0xdf ? 2
                                                      : 0;
  if (length == 0 || text.size() < length) return {};
  char32_t value = lead & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3fU);
  }
  bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  if (overlong || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return {};
  return {value, length};
}

bool harmless(char32_t value) {
  if (value < 0x20 || (value >= 0x7f && value < 0xa0)) return false;
  if (value >= 0x200e && value <= 0x200f) return false;  // direction marks
  if (value >= 0x2028 && value <= 0x202e) return false;  // line separators, embeddings, overrides
  return !(value >= 0x2066 && value <= 0x2069);          // isolates
}

}  // namespace

std::string printable(std::string_view text) {
  static constexpr std::array<char, 16> kHex = {'0', '1', '2', '3', '4', '5', '6', '7',
                                                '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'};
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    Decoded next = decode(text);
    std::size_t length = next.length == 0 ? 1 : next.length;
    if (next.length != 0 && harmless(next.value)) {
      out.append(text.substr(0, length));
    } else {
      for (char c : text.substr(0, length)) {
        auto byte = static_cast<std::uint8_t>(c);
        out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
      }
    }
    text.remove_prefix(length);
  }
  return out;
}

void complain(std::string_view message) {
  std::string line = "inlay: " + printable(message) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace inlay::tools
