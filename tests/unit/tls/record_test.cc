#include "tls/record.h"

#include <doctest/doctest.h>
#include <openssl/evp.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "bytes.h"
#include "identity/openssl.h"

using namespace inlay::tls;
using namespace inlay::tls::test;

namespace {

Bytes counting(std::size_t length) {
  Bytes bytes(length);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  return bytes;
}

bool all_zero(std::span<const std::uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::uint8_t b) { return b == 0; });
}

// Seals any inner plaintext at all, valid or not, which RecordCipher::seal cannot.
Bytes seal_inner(const TrafficState &state, std::uint64_t sequence,
                 std::span<const std::uint8_t> inner) {
  const char *name = state.suite == Suite::chacha20_poly1305_sha256 ? "ChaCha20-Poly1305"
                     : state.suite == Suite::aes_256_gcm_sha384     ? "AES-256-GCM"
                                                                    : "AES-128-GCM";
  auto *library = inlay::identity::library_context();
  auto *cipher = EVP_CIPHER_fetch(library, name, nullptr);
  inlay::identity::CipherContextPtr context(EVP_CIPHER_CTX_new());
  auto iv = state.iv;
  for (std::size_t i = 0; i < 8; ++i) iv[11 - i] ^= static_cast<std::uint8_t>(sequence >> (8 * i));
  const std::size_t length = inner.size() + kTagLength;
  Bytes record{23, 3, 3, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
  record.resize(kHeaderLength + length);
  int written = 0;
  REQUIRE(EVP_EncryptInit_ex2(context.get(), cipher, state.key.data(), iv.data(), nullptr) == 1);
  REQUIRE(EVP_EncryptUpdate(context.get(), nullptr, &written, record.data(), 5) == 1);
  REQUIRE(EVP_EncryptUpdate(context.get(), record.data() + 5, &written, inner.data(),
                            static_cast<int>(inner.size())) == 1);
  REQUIRE(EVP_EncryptFinal_ex(context.get(), record.data() + 5 + inner.size(), &written) == 1);
  REQUIRE(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kTagLength,
                              record.data() + 5 + inner.size()) == 1);
  EVP_CIPHER_free(cipher);
  return record;
}

}  // namespace

TEST_CASE("records of RFC 8448 §3 seal and open to the same bytes") {
  struct Row {
    const char *secret;
    std::uint64_t sequence;
    ContentType type;
    Bytes content;
    const char *record;
  };
  const Row rows[] = {
      {kClientSecret, 0, ContentType::application_data, counting(50),
       "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc "
       "ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd "
       "1e 3d ea e6 3a ee bb 21 69 49 15 e4"},
      {kServerSecret, 1, ContentType::application_data, counting(50),
       "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa "
       "1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 "
       "ab f3 32 54 0d d0 32 e1 67 c2 95 5d"},
      {kClientSecret,
       1,
       ContentType::alert,
       {1, 0},
       "17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3"},
      {kServerSecret,
       2,
       ContentType::alert,
       {1, 0},
       "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9"},
  };
  for (const Row &row : rows) {
    TrafficState state;
    REQUIRE(derive(state, Suite::aes_128_gcm_sha256, hex(row.secret)));
    auto sealer = RecordCipher::make(state, true);
    auto opener = RecordCipher::make(state, false);
    REQUIRE(sealer);
    REQUIRE(opener);
    const Bytes record = hex(row.record);
    CHECK(seal(*sealer, row.sequence, row.type, row.content) == record);
    Bytes out(record.size());
    auto opened = opener->open(row.sequence, record, out.data());
    REQUIRE(opened);
    CHECK(opened->type == row.type);
    CHECK(Bytes(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(opened->length)) ==
          row.content);
  }
}

TEST_CASE("every suite opens what it sealed, at sizes around each boundary") {
  for (Suite suite : kSuites) {
    const TrafficState state = state_of(suite);
    auto sealer = RecordCipher::make(state, true);
    auto opener = RecordCipher::make(state, false);
    std::uint64_t sequence = 0;
    for (std::size_t length :
         {0u, 1u, 15u, 16u, 17u, 64u, 1023u, 1024u, 1025u, 4096u, 16383u, 16384u}) {
      CAPTURE(length);
      const Bytes content = counting(length);
      Bytes record = seal(*sealer, sequence, ContentType::application_data, content);
      REQUIRE(record.size() == length + kRecordOverhead);
      Bytes out(length + 1);
      auto opened = opener->open(sequence, record, out.data());
      REQUIRE(opened);
      CHECK(opened->type == ContentType::application_data);
      REQUIRE(opened->length == length);
      CHECK(std::equal(content.begin(), content.end(), out.begin()));
      // In place.
      opened = opener->open(sequence, record, record.data() + kHeaderLength);
      REQUIRE(opened);
      CHECK(std::equal(content.begin(), content.end(), record.begin() + kHeaderLength));
      ++sequence;
    }
    Bytes out(kMaxPlaintext + 1 + kRecordOverhead);
    const Bytes long_content(kMaxPlaintext + 1);
    const iovec parts[] = {part(long_content)};
    CHECK(sealer->seal(sequence, ContentType::application_data, parts, 0, long_content.size(),
                       out.data()) == 0);
  }
}

TEST_CASE("sealing gathers any cut of the parts from any offset") {
  const Bytes content = counting(3000);
  for (Suite suite : kSuites) {
    const TrafficState state = state_of(suite);
    auto sealer = RecordCipher::make(state, true);
    for (std::size_t length : {1u, 700u, 1024u, 1025u, 2000u}) {
      const Bytes expected =
          seal(*sealer, 9, ContentType::application_data, std::span(content).subspan(500, length));
      for (std::size_t cut : {0u, 1u, 499u, 500u, 501u, 1000u, 1200u, 2500u, 3000u}) {
        const std::span<const std::uint8_t> all(content);
        const iovec parts[] = {part(all.first(cut / 2)), part(all.subspan(0, 0)),
                               part(all.subspan(cut / 2, cut - cut / 2)), part(all.subspan(cut))};
        Bytes record(length + kRecordOverhead);
        CHECK(sealer->seal(9, ContentType::application_data, parts, 500, length, record.data()) ==
              record.size());
        CHECK(record == expected);
      }
    }
  }
}

TEST_CASE("sealing more than the parts hold is refused and leaves no plaintext behind") {
  const TrafficState state = state_of(Suite::aes_128_gcm_sha256);
  auto sealer = RecordCipher::make(state, true);
  const Bytes content(100, 0x61);
  for (std::size_t length : {101u, 1200u}) {
    Bytes out(length + kRecordOverhead, 0xff);
    const iovec parts[] = {part(content)};
    CHECK(sealer->seal(0, ContentType::application_data, parts, 0, length, out.data()) == 0);
    CHECK(all_zero(std::span(out).subspan(kHeaderLength)));
  }
}

TEST_CASE("a record opens from two pieces cut at every byte") {
  for (Suite suite : kSuites) {
    const TrafficState state = state_of(suite);
    auto sealer = RecordCipher::make(state, true);
    auto opener = RecordCipher::make(state, false);
    const Bytes content = counting(77);
    const Bytes record = seal(*sealer, 3, ContentType::application_data, content);
    for (std::size_t cut = 0; cut <= record.size(); ++cut) {
      CAPTURE(cut);
      Bytes out(content.size() + 1, 0xee);
      const std::span<const std::uint8_t> all(record);
      auto opened = opener->open(3, all.first(cut), all.subspan(cut), out.data());
      REQUIRE(opened);
      CHECK(opened->length == content.size());
      CHECK(std::equal(content.begin(), content.end(), out.begin()));
    }
  }
}

TEST_CASE("changing any byte of a record makes it fail and its output is cleansed") {
  for (Suite suite : kSuites) {
    const TrafficState state = state_of(suite);
    auto sealer = RecordCipher::make(state, true);
    auto opener = RecordCipher::make(state, false);
    const Bytes record = seal(*sealer, 3, ContentType::application_data, counting(40));
    for (std::size_t at = 0; at < record.size(); ++at) {
      for (const std::uint8_t bit : Bytes{0x01, 0x80}) {
        CAPTURE(at);
        Bytes changed = record;
        changed[at] ^= bit;
        Bytes out(41, 0);
        auto opened = opener->open(3, changed, out.data());
        REQUIRE_FALSE(opened);
        CHECK(all_zero(out));
        if (at == 2 || at >= kHeaderLength) CHECK(opened.error() == RecordError::bad_mac);
      }
    }
    Bytes out(41, 0);
    CHECK(opener->open(3, record, out.data()));  // a failure leaves the cipher usable
    CHECK(opener->open(2, record, out.data()).error() == RecordError::bad_mac);
    CHECK(opener->open(4, record, out.data()).error() == RecordError::bad_mac);
  }
}

TEST_CASE("T43 a record played back to its sender does not open") {
  const TrafficState send = state_of(Suite::aes_128_gcm_sha256, 1);
  const TrafficState receive = state_of(Suite::aes_128_gcm_sha256, 2);
  auto sealer = RecordCipher::make(send, true);
  auto opener = RecordCipher::make(receive, false);
  Bytes record = seal(*sealer, 0, ContentType::application_data, counting(10));
  Bytes out(11);
  CHECK(opener->open(0, record, out.data()).error() == RecordError::bad_mac);
}

TEST_CASE("T44 a truncated record does not open at any length") {
  const TrafficState state = state_of(Suite::aes_128_gcm_sha256);
  auto sealer = RecordCipher::make(state, true);
  auto opener = RecordCipher::make(state, false);
  const Bytes record = seal(*sealer, 0, ContentType::application_data, counting(30));
  for (std::size_t length = 0; length < record.size(); ++length) {
    Bytes out(31, 0);
    auto opened = opener->open(0, std::span(record).first(length), out.data());
    REQUIRE_FALSE(opened);
    CHECK(opened.error() ==
          (length < kHeaderLength ? RecordError::incomplete : RecordError::too_short));
    CHECK(all_zero(out));
  }
}

TEST_CASE("inner plaintexts are judged by RFC 8446 §5.1 and §5.4") {
  struct Row {
    const char *name;
    Bytes inner;
    tl::expected<Opened, RecordError> expected;
  };
  const auto padded = [](std::size_t content, std::uint8_t type, std::size_t padding) {
    Bytes inner(content, 0x41);
    inner.push_back(type);
    inner.resize(inner.size() + padding);
    return inner;
  };
  const auto error = [](RecordError value) { return tl::unexpected(value); };
  const auto opened = [](ContentType type, std::size_t length) { return Opened{type, length}; };
  const Row rows[] = {
      {"data", padded(5, 23, 0), opened(ContentType::application_data, 5)},
      {"data with padding", padded(5, 23, 9), opened(ContentType::application_data, 5)},
      {"empty data", padded(0, 23, 0), opened(ContentType::application_data, 0)},
      {"empty data with padding", padded(0, 23, 100), opened(ContentType::application_data, 0)},
      {"handshake", padded(5, 22, 0), opened(ContentType::handshake, 5)},
      {"alert", padded(2, 21, 3), opened(ContentType::alert, 2)},
      {"no type", Bytes(1), error(RecordError::no_content_type)},
      {"only zeros", Bytes(200), error(RecordError::no_content_type)},
      {"empty handshake", padded(0, 22, 0), error(RecordError::unexpected_type)},
      {"empty alert", padded(0, 21, 4), error(RecordError::unexpected_type)},
      {"change_cipher_spec inside", padded(1, 20, 0), error(RecordError::unexpected_type)},
      {"unknown type", padded(5, 24, 0), error(RecordError::unexpected_type)},
      {"as long as allowed", padded(kMaxPlaintext, 23, 0),
       opened(ContentType::application_data, kMaxPlaintext)},
      {"padding to the longest", padded(0, 23, kMaxPlaintext),
       opened(ContentType::application_data, 0)},
      {"T39 oversize content", padded(kMaxPlaintext + 1, 23, 0), error(RecordError::overflow)},
      {"T39 oversize padding", padded(1, 23, kMaxPlaintext), error(RecordError::overflow)},
      {"T39 longer than any ciphertext", padded(kMaxCiphertext, 23, 0),
       error(RecordError::overflow)},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    const TrafficState state = state_of(Suite::aes_128_gcm_sha256);
    auto opener = RecordCipher::make(state, false);
    Bytes out(row.inner.size(), 0);
    const auto result = opener->open(0, seal_inner(state, 0, row.inner), out.data());
    REQUIRE(result.has_value() == row.expected.has_value());
    if (result) {
      CHECK(result->type == row.expected->type);
      CHECK(result->length == row.expected->length);
    } else {
      CHECK(result.error() == row.expected.error());
      CHECK(all_zero(out));
    }
  }
}

TEST_CASE("record headers") {
  struct Row {
    const char *bytes;
    int error;  // -1 for none
  };
  const auto code = [](RecordError error) { return static_cast<int>(error); };
  const Row rows[] = {
      {"17 03 03 00 20", -1},
      {"16 03 01 02 00", -1},
      {"15 03 03 00 02", -1},
      {"14 03 03 00 01", -1},
      {"17 03 03 41 00", -1},
      {"17 03 03 41 01", code(RecordError::overflow)},
      {"17 03 03 ff ff", code(RecordError::overflow)},
      {"17 02 03 00 20", code(RecordError::not_tls)},
      {"18 03 03 00 20", code(RecordError::not_tls)},
      {"13 03 03 00 20", code(RecordError::not_tls)},
      {"47 45 54 20 2f", code(RecordError::not_tls)},
      {"48 54 54 50 2f", code(RecordError::not_tls)},
      {"17 03 03 00", code(RecordError::incomplete)},
      {"", code(RecordError::incomplete)},
  };
  for (const Row &row : rows) {
    CAPTURE(row.bytes);
    const auto header = parse_header(hex(row.bytes));
    CHECK((header ? -1 : code(header.error())) == row.error);
  }
}

TEST_CASE("after the handshake only application_data may be the outer type") {
  const TrafficState state = state_of(Suite::aes_128_gcm_sha256);
  auto opener = RecordCipher::make(state, false);
  for (const char *bytes :
       {"14 03 03 00 01 01", "15 03 03 00 02 02 28", "16 03 03 00 04 00 00 00 00"}) {
    Bytes out(64);
    CHECK(opener->open(0, hex(bytes), out.data()).error() == RecordError::unexpected_type);
  }
  Bytes out(64);
  CHECK(opener->open(0, hex("17 03 03 00 00"), out.data()).error() == RecordError::too_short);
  CHECK(opener->open(0, hex("17 03 03 00 02 01 02"), out.data()).error() == RecordError::too_short);
}

TEST_CASE("a key seals no more records than its suite's limit and opens up to 2^64 - 1") {
  for (Suite suite : kSuites) {
    const TrafficState state = state_of(suite);
    auto sealer = RecordCipher::make(state, true);
    auto opener = RecordCipher::make(state, false);
    const std::uint64_t limit = record_limit(suite);
    CHECK(seal(*sealer, limit - 1, ContentType::application_data, counting(3)).size() ==
          3 + kRecordOverhead);
    CHECK(seal(*sealer, limit, ContentType::application_data, counting(3)).empty());
    Bytes out(64);
    const Bytes inner{1, 23};
    CHECK(opener->open(UINT64_MAX - 1, seal_inner(state, UINT64_MAX - 1, inner), out.data()));
    CHECK(opener->open(UINT64_MAX, seal_inner(state, UINT64_MAX, inner), out.data()).error() ==
          RecordError::limit);
    // A direction's cipher does not work in the other one.
    CHECK(seal(*opener, 0, ContentType::application_data, counting(3)).empty());
    CHECK(sealer->open(0, seal_inner(state, 0, inner), out.data()).error() ==
          RecordError::internal);
  }
}

TEST_CASE("each record error has its alert") {
  CHECK(alert_for(RecordError::overflow) == Alert::record_overflow);
  CHECK(alert_for(RecordError::bad_mac) == Alert::bad_record_mac);
  CHECK(alert_for(RecordError::too_short) == Alert::bad_record_mac);
  CHECK(alert_for(RecordError::no_content_type) == Alert::unexpected_message);
  CHECK(alert_for(RecordError::unexpected_type) == Alert::unexpected_message);
  CHECK(alert_for(RecordError::limit) == Alert::internal_error);
}
