#include "tls/record.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>

#include "identity/openssl.h"

namespace inlay::tls {
namespace {

static_assert(std::is_trivially_copyable_v<TrafficState>, "it lives in shared memory");

constexpr std::uint8_t kLegacyVersion[] = {3, 3};     // §5.1
constexpr std::size_t kMaxInner = kMaxPlaintext + 1;  // content, type and padding (§5.4)
// Up to here it is cheaper to copy the parts together than to call OpenSSL once for each.
constexpr std::size_t kCopyLimit = 1024;

// Fetched once: a fetch takes longer than a small record.
EVP_CIPHER *fetched(Suite suite) noexcept {
  const auto fetch = [](const char *algorithm) {
    return EVP_CIPHER_fetch(identity::library_context(), algorithm, nullptr);
  };
  switch (suite) {
    case Suite::aes_128_gcm_sha256: {
      static EVP_CIPHER *const cipher = fetch("AES-128-GCM");
      return cipher;
    }
    case Suite::aes_256_gcm_sha384: {
      static EVP_CIPHER *const cipher = fetch("AES-256-GCM");
      return cipher;
    }
    case Suite::chacha20_poly1305_sha256: {
      static EVP_CIPHER *const cipher = fetch("ChaCha20-Poly1305");
      return cipher;
    }
    case Suite::none:
      break;
  }
  return nullptr;
}

// HKDF-Expand-Label with an empty context (§7.1). Every output TLS 1.3 needs here is at most one
// hash long, so HKDF-Expand (RFC 5869 §2.3) is its first block: HMAC(secret, info | 1).
bool expand_label(Suite suite, std::span<const std::uint8_t> secret, std::string_view label,
                  std::span<std::uint8_t> out) noexcept {
  constexpr std::string_view kPrefix = "tls13 ";
  std::array<std::uint8_t, 32> info{};
  std::size_t length = 0;
  info[length++] = 0;
  info[length++] = static_cast<std::uint8_t>(out.size());
  info[length++] = static_cast<std::uint8_t>(kPrefix.size() + label.size());
  for (char c : kPrefix) info[length++] = static_cast<std::uint8_t>(c);
  for (char c : label) info[length++] = static_cast<std::uint8_t>(c);
  info[length++] = 0;  // empty context
  info[length++] = 1;  // T(1)

  std::array<std::uint8_t, kMaxSecretLength> block{};
  std::size_t block_length = 0;
  const char *digest = suite == Suite::aes_256_gcm_sha384 ? "SHA2-384" : "SHA2-256";
  const bool done = EVP_Q_mac(identity::library_context(), "HMAC", nullptr, digest, nullptr,
                              secret.data(), secret.size(), info.data(), length, block.data(),
                              block.size(), &block_length) != nullptr &&
                    block_length >= out.size();
  if (done) std::copy_n(block.begin(), out.size(), out.begin());
  OPENSSL_cleanse(block.data(), block.size());
  return done;
}

void write_header(std::uint8_t *out, std::size_t length) noexcept {
  out[0] = static_cast<std::uint8_t>(ContentType::application_data);
  out[1] = kLegacyVersion[0];
  out[2] = kLegacyVersion[1];
  out[3] = static_cast<std::uint8_t>(length >> 8);
  out[4] = static_cast<std::uint8_t>(length);
}

// The static IV xor the sequence number, big-endian and left-padded (§5.3).
std::array<std::uint8_t, kIvLength> nonce(const std::array<std::uint8_t, kIvLength> &iv,
                                          std::uint64_t sequence) noexcept {
  std::array<std::uint8_t, kIvLength> result = iv;
  for (std::size_t i = 0; i < 8; ++i)
    result[kIvLength - 1 - i] ^= static_cast<std::uint8_t>(sequence >> (8 * i));
  return result;
}

// Adds what sets a record's nonce. For AES-GCM a parameter that restores the whole IV (a length of
// SIZE_MAX, meant for TLS 1.2's fixed part): EVP_CipherInit_ex asks the provider for lengths by name
// first, which takes a quarter of a small record's time. A provider that ignored the parameter would
// find its IV used up and refuse.
OSSL_PARAM nonce_parameter(std::array<std::uint8_t, kIvLength> &iv) noexcept {
  return OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_IV_FIXED, iv.data(),
                                           SIZE_MAX);
}

EVP_CIPHER_CTX *cast(void *context) noexcept { return static_cast<EVP_CIPHER_CTX *>(context); }

// Walks `parts` from `offset` on and hands out `length` bytes piece by piece.
template <typename Take>
bool gather(std::span<const iovec> parts, std::size_t offset, std::size_t length, Take take) {
  for (const iovec &part : parts) {
    if (length == 0) break;
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    const std::size_t piece = std::min(part.iov_len - offset, length);
    if (!take(static_cast<const std::uint8_t *>(part.iov_base) + offset, piece)) return false;
    offset = 0;
    length -= piece;
  }
  return length == 0;
}

}  // namespace

bool derive(TrafficState &state, Suite suite, std::span<const std::uint8_t> secret) noexcept {
  if (suite == Suite::none || secret.size() != hash_length(suite)) return false;
  TrafficState fresh;
  fresh.suite = suite;
  std::copy(secret.begin(), secret.end(), fresh.secret.begin());
  const bool done =
      expand_label(suite, secret, "key", std::span(fresh.key).first(key_length(suite))) &&
      expand_label(suite, secret, "iv", fresh.iv);
  if (done) state = fresh;
  OPENSSL_cleanse(&fresh, sizeof fresh);
  return done;
}

bool update(TrafficState &state) noexcept {
  if (state.suite == Suite::none) return false;
  std::array<std::uint8_t, kMaxSecretLength> next{};
  const std::size_t length = hash_length(state.suite);
  const auto generation = static_cast<std::uint16_t>(state.key_generation + 1);
  bool done = expand_label(state.suite, std::span(state.secret).first(length), "traffic upd",
                           std::span(next).first(length));
  done = done && derive(state, state.suite, std::span(next).first(length));
  if (done) state.key_generation = generation;
  OPENSSL_cleanse(next.data(), next.size());
  return done;
}

bool update_due(const TrafficState &state) noexcept {
  return state.sequence >= record_limit(state.suite) / 2;
}

Alert alert_for(RecordError error) noexcept {
  switch (error) {
    case RecordError::overflow:
      return Alert::record_overflow;
    case RecordError::not_tls:
    case RecordError::unexpected_type:
    case RecordError::no_content_type:
      return Alert::unexpected_message;
    case RecordError::bad_mac:
    case RecordError::too_short:
      return Alert::bad_record_mac;
    case RecordError::incomplete:
    case RecordError::limit:
    case RecordError::internal:
      break;
  }
  return Alert::internal_error;
}

tl::expected<Header, RecordError> parse_header(std::span<const std::uint8_t> bytes) noexcept {
  if (bytes.size() < kHeaderLength) return tl::unexpected(RecordError::incomplete);
  if (bytes[0] < static_cast<std::uint8_t>(ContentType::change_cipher_spec) ||
      bytes[0] > static_cast<std::uint8_t>(ContentType::application_data) ||
      bytes[1] != kLegacyVersion[0])
    return tl::unexpected(RecordError::not_tls);
  const std::size_t length = static_cast<std::size_t>(bytes[3]) << 8 | bytes[4];
  if (length > kMaxCiphertext) return tl::unexpected(RecordError::overflow);
  return Header{static_cast<ContentType>(bytes[0]), length};
}

std::unique_ptr<RecordCipher> RecordCipher::make(const TrafficState &state, bool seal) noexcept {
  EVP_CIPHER *const algorithm = fetched(state.suite);
  if (algorithm == nullptr) return nullptr;
  std::unique_ptr<RecordCipher> cipher(new (std::nothrow) RecordCipher);
  if (cipher == nullptr) return nullptr;
  EVP_CIPHER_CTX *const context = EVP_CIPHER_CTX_new();
  cipher->context_ = context;
  if (context == nullptr ||
      EVP_CipherInit_ex2(context, algorithm, state.key.data(), nullptr, seal ? 1 : 0, nullptr) != 1)
    return nullptr;
  cipher->iv_ = state.iv;
  cipher->limit_ = seal ? record_limit(state.suite) : UINT64_MAX;
  cipher->key_generation_ = state.key_generation;
  cipher->seal_ = seal;
  cipher->gcm_ = state.suite != Suite::chacha20_poly1305_sha256;
  return cipher;
}

RecordCipher::~RecordCipher() {
  EVP_CIPHER_CTX_free(cast(context_));  // cleanses the key schedule
  OPENSSL_cleanse(iv_.data(), iv_.size());
}

std::size_t RecordCipher::seal(std::uint64_t sequence, ContentType type,
                               std::span<const iovec> parts, std::size_t offset, std::size_t length,
                               std::uint8_t *out) noexcept {
  if (!seal_ || sequence >= limit_ || length > kMaxPlaintext) return 0;
  EVP_CIPHER_CTX *const context = cast(context_);
  auto iv = nonce(iv_, sequence);
  const std::size_t body_length = length + 1 + kTagLength;
  write_header(out, body_length);
  std::uint8_t *const body = out + kHeaderLength;
  const auto fail = [&]() -> std::size_t {
    OPENSSL_cleanse(body, body_length);  // may hold a copy of the plaintext
    return 0;
  };

  int written = 0;
  OSSL_PARAM start[] = {nonce_parameter(iv), OSSL_PARAM_construct_end()};
  const int started = gcm_ ? EVP_CIPHER_CTX_set_params(context, start)
                           : EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, iv.data());
  if (started != 1 ||
      EVP_EncryptUpdate(context, nullptr, &written, out, kHeaderLength) != 1)
    return fail();
  std::uint8_t *at = body;
  if (length <= kCopyLimit) {
    const bool whole = gather(parts, offset, length, [&](const std::uint8_t *data, std::size_t n) {
      std::memcpy(at, data, n);
      at += n;
      return true;
    });
    if (!whole) return fail();
    *at++ = static_cast<std::uint8_t>(type);
    if (EVP_EncryptUpdate(context, body, &written, body, static_cast<int>(length + 1)) != 1)
      return fail();
  } else {
    const bool whole = gather(parts, offset, length, [&](const std::uint8_t *data, std::size_t n) {
      if (EVP_EncryptUpdate(context, at, &written, data, static_cast<int>(n)) != 1) return false;
      at += n;
      return true;
    });
    const auto type_byte = static_cast<std::uint8_t>(type);
    if (!whole || EVP_EncryptUpdate(context, at, &written, &type_byte, 1) != 1) return fail();
    ++at;
  }
  OSSL_PARAM tag[] = {OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, at, kTagLength),
                      OSSL_PARAM_construct_end()};
  if (EVP_EncryptFinal_ex(context, at, &written) != 1 ||
      EVP_CIPHER_CTX_get_params(context, tag) != 1)
    return fail();
  return kHeaderLength + body_length;
}

tl::expected<Opened, RecordError> RecordCipher::open(std::uint64_t sequence,
                                                     std::span<const std::uint8_t> record,
                                                     std::uint8_t *out) noexcept {
  return open(sequence, record, {}, out);
}

tl::expected<Opened, RecordError> RecordCipher::open(std::uint64_t sequence,
                                                     std::span<const std::uint8_t> head,
                                                     std::span<const std::uint8_t> rest,
                                                     std::uint8_t *out) noexcept {
  if (seal_) return tl::unexpected(RecordError::internal);
  if (sequence >= limit_) return tl::unexpected(RecordError::limit);
  std::array<std::uint8_t, kHeaderLength> header_bytes;
  const std::size_t from_head = std::min(head.size(), kHeaderLength);
  const std::size_t from_rest = std::min(rest.size(), kHeaderLength - from_head);
  std::copy_n(head.begin(), from_head, header_bytes.begin());
  std::copy_n(rest.begin(), from_rest, header_bytes.begin() + from_head);
  const auto header = parse_header(std::span(header_bytes).first(from_head + from_rest));
  if (!header) return tl::unexpected(header.error());
  if (header->type != ContentType::application_data)
    return tl::unexpected(RecordError::unexpected_type);
  if (head.size() + rest.size() != kHeaderLength + header->length ||
      header->length < 1 + kTagLength)
    return tl::unexpected(RecordError::too_short);
  const std::size_t inner_length = header->length - kTagLength;
  // Whether it authenticates or not, it is longer than a sender may make it (§5.4).
  if (inner_length > kMaxInner) return tl::unexpected(RecordError::overflow);

  head = head.subspan(from_head);
  rest = rest.subspan(from_rest);
  const std::size_t head_inner = std::min(head.size(), inner_length);
  const std::size_t rest_inner = inner_length - head_inner;
  std::array<std::uint8_t, kTagLength> tag_bytes;
  const auto tag_end = std::copy(head.begin() + static_cast<std::ptrdiff_t>(head_inner), head.end(),
                                 tag_bytes.begin());
  std::copy(rest.begin() + static_cast<std::ptrdiff_t>(rest_inner), rest.end(), tag_end);

  EVP_CIPHER_CTX *const context = cast(context_);
  auto iv = nonce(iv_, sequence);
  const auto fail = [&](RecordError error) {
    OPENSSL_cleanse(out, inner_length);
    return tl::unexpected(error);
  };
  OSSL_PARAM start[] = {OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG,
                                                          tag_bytes.data(), tag_bytes.size()),
                        gcm_ ? nonce_parameter(iv) : OSSL_PARAM_construct_end(),
                        OSSL_PARAM_construct_end()};
  int written = 0;
  if ((!gcm_ && EVP_DecryptInit_ex(context, nullptr, nullptr, nullptr, iv.data()) != 1) ||
      EVP_CIPHER_CTX_set_params(context, start) != 1 ||
      EVP_DecryptUpdate(context, nullptr, &written, header_bytes.data(), kHeaderLength) != 1)
    return fail(RecordError::internal);
  if (head_inner != 0 &&
      EVP_DecryptUpdate(context, out, &written, head.data(), static_cast<int>(head_inner)) != 1)
    return fail(RecordError::internal);
  if (rest_inner != 0 && EVP_DecryptUpdate(context, out + head_inner, &written, rest.data(),
                                           static_cast<int>(rest_inner)) != 1)
    return fail(RecordError::internal);
  if (EVP_DecryptFinal_ex(context, out + inner_length, &written) != 1)
    return fail(RecordError::bad_mac);

  // The last non-zero byte is the type, what follows it is padding (§5.4).
  std::size_t length = inner_length;
  while (length != 0 && out[length - 1] == 0) --length;
  if (length == 0) return fail(RecordError::no_content_type);
  const auto type = static_cast<ContentType>(out[--length]);
  switch (type) {
    case ContentType::application_data:
      return Opened{type, length};
    case ContentType::alert:
    case ContentType::handshake:
      if (length == 0) return fail(RecordError::unexpected_type);
      return Opened{type, length};
    default:
      return fail(RecordError::unexpected_type);
  }
}

}  // namespace inlay::tls
