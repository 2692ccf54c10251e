// What the tests of tls/ share that needs no OpenSSL.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "tls/record.h"

namespace inlay::tls::test {

using Bytes = std::vector<std::uint8_t>;

inline constexpr Suite kSuites[] = {Suite::aes_128_gcm_sha256, Suite::aes_256_gcm_sha384,
                                    Suite::chacha20_poly1305_sha256};

// RFC 8448 §3, "Simple 1-RTT Handshake".
inline constexpr const char *kClientSecret =
    "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
inline constexpr const char *kServerSecret =
    "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";

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

// Keys from a secret of one repeated byte.
inline TrafficState state_of(Suite suite, std::uint8_t fill = 0x5a) {
  TrafficState state;
  if (!derive(state, suite, Bytes(hash_length(suite), fill))) throw std::runtime_error("derive");
  return state;
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
