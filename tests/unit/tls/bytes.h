// Byte helpers the tests of tls/ share.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tls/record.h"

namespace inlay::tls::test {

using Bytes = std::vector<std::uint8_t>;

// "17 03 03" or "170303".
inline Bytes hex(std::string_view text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  Bytes bytes;
  int high = -1;
  for (char c : text) {
    if (c == ' ' || c == '\n') continue;
    if (high < 0) {
      high = digit(c);
      continue;
    }
    bytes.push_back(static_cast<std::uint8_t>(high * 16 + digit(c)));
    high = -1;
  }
  return bytes;
}

inline Bytes text(std::string_view characters) { return {characters.begin(), characters.end()}; }

inline void append(Bytes &to, std::span<const std::uint8_t> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

inline iovec part(std::span<const std::uint8_t> bytes) {
  return {const_cast<std::uint8_t *>(bytes.data()), bytes.size()};
}

// One record; empty when sealing is refused.
inline Bytes seal(RecordCipher &cipher, std::uint64_t sequence, ContentType type,
                  std::span<const std::uint8_t> content) {
  Bytes record(content.size() + kRecordOverhead);
  const iovec parts[] = {part(content)};
  record.resize(cipher.seal(sequence, type, parts, 0, content.size(), record.data()));
  return record;
}

}  // namespace inlay::tls::test
