// Record protection (RFC 8446 §5): plain data that may live in shared memory, and the AEAD over it.
// Knows nothing of sockets: bytes in, bytes out. No allocation after RecordCipher::make.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <tl/expected.hpp>

#include "tls/alert.h"
#include "tls/suite.h"

namespace inlay::tls {

enum class ContentType : std::uint8_t {
  invalid = 0,
  change_cipher_spec = 20,
  alert = 21,
  handshake = 22,
  application_data = 23,
};

inline constexpr std::size_t kHeaderLength = 5;
inline constexpr std::size_t kMaxPlaintext = 16384;                 // §5.1
inline constexpr std::size_t kMaxCiphertext = kMaxPlaintext + 256;  // §5.2
inline constexpr std::size_t kMaxRecord = kHeaderLength + kMaxCiphertext;
// Header, inner content type and tag: what protection adds to a record's plaintext.
inline constexpr std::size_t kRecordOverhead = kHeaderLength + 1 + kTagLength;

// One direction's keys and position. Trivially copyable: it is stored in shared memory, and any
// process that shares the session can continue from it. A (key, sequence) pair must be used for
// sealing once only: the owner of the transmit lock advances `sequence` before it seals.
struct TrafficState {
  Suite suite = Suite::none;
  std::uint16_t key_generation = 0;  // grows with each KeyUpdate
  std::uint32_t reserved = 0;
  std::uint64_t sequence = 0;  // of the next record
  std::array<std::uint8_t, kMaxSecretLength> secret{};
  std::array<std::uint8_t, kMaxKeyLength> key{};
  std::array<std::uint8_t, kIvLength> iv{};
};

// Derives key and iv from a traffic secret (§7.3). False when OpenSSL fails.
bool derive(TrafficState &state, Suite suite, std::span<const std::uint8_t> secret) noexcept;
// application_traffic_secret_N+1 (§7.2): new secret, key and iv, sequence 0, key_generation + 1.
// False, and nothing changed, when OpenSSL fails.
bool update(TrafficState &state) noexcept;
// True once a sender should send a KeyUpdate and update(): half of the suite's record_limit() is
// used. RecordCipher::seal refuses at the limit itself.
bool update_due(const TrafficState &state) noexcept;

enum class RecordError : std::uint8_t {
  incomplete,       // parse_header only: fewer than 5 bytes
  not_tls,          // the first bytes are no TLS record (plaintext peer)
  overflow,         // longer than §5.2 allows -> record_overflow alert
  unexpected_type,  // outer type other than application_data after the handshake; inner type
                    // unknown, or an alert or handshake record without content (§5.1)
  bad_mac,          // does not authenticate -> bad_record_mac
  no_content_type,  // inner plaintext is all zeros (§5.4) -> unexpected_message
  too_short,        // shorter than type and tag, or not as long as its header says
  limit,            // the sequence number is used up
  internal,
};
// The alert to fail with; meaningless for incomplete.
Alert alert_for(RecordError error) noexcept;

struct Header {
  ContentType type;
  std::size_t length;  // of the fragment that follows the header
};
// Needs 5 bytes. Checks type, legacy version's first byte (its second is ignored, §5.1) and length.
// Also right for the records of a handshake.
tl::expected<Header, RecordError> parse_header(std::span<const std::uint8_t> bytes) noexcept;

struct Opened {
  ContentType type;
  std::size_t length;  // of the plaintext, padding removed
};

// A cipher context for one direction and one key generation, private to this process. Not
// thread-safe: used under the direction's lock.
class RecordCipher {
 public:
  // Allocates. Null when OpenSSL fails. Not async-signal-safe.
  static std::unique_ptr<RecordCipher> make(const TrafficState &state, bool seal) noexcept;
  ~RecordCipher();
  RecordCipher(const RecordCipher &) = delete;
  RecordCipher &operator=(const RecordCipher &) = delete;

  std::uint16_t key_generation() const noexcept { return key_generation_; }

  // Seals `length` bytes gathered from `parts` starting `offset` bytes in, as one record with
  // sequence number `sequence`, into out (length + kRecordOverhead bytes). `length` is at most
  // kMaxPlaintext and what `parts` hold from `offset` on. Returns the record's size; 0 when OpenSSL
  // fails, the arguments are out of range or the key's record_limit() is used up, with nothing of
  // the plaintext left in `out`. The caller has advanced the sequence already. `out` must not
  // overlap the input.
  std::size_t seal(std::uint64_t sequence, ContentType type, std::span<const iovec> parts,
                   std::size_t offset, std::size_t length, std::uint8_t *out) noexcept;

  // Opens one whole record (header included) into `out`, which has room for the record's
  // ciphertext length - kTagLength bytes (plaintext, type and padding). On failure what was
  // written is cleansed. `out` may be equal to record.data() + kHeaderLength. Only the sequence
  // number limits opening, not record_limit(): that binds whoever seals (§5.5), and stock peers
  // go past it.
  tl::expected<Opened, RecordError> open(std::uint64_t sequence,
                                         std::span<const std::uint8_t> record,
                                         std::uint8_t *out) noexcept;

  // As open(), for a record in two pieces (`head` was read earlier, `rest` now), cut anywhere.
  // `out` must not overlap either.
  tl::expected<Opened, RecordError> open(std::uint64_t sequence, std::span<const std::uint8_t> head,
                                         std::span<const std::uint8_t> rest,
                                         std::uint8_t *out) noexcept;

 private:
  RecordCipher() = default;
  void *context_ = nullptr;  // EVP_CIPHER_CTX
  std::array<std::uint8_t, kIvLength> iv_{};
  std::uint64_t limit_ = 0;  // sequence numbers from here on are refused
  std::uint16_t key_generation_ = 0;
  bool seal_ = false;
  bool gcm_ = false;
};

}  // namespace inlay::tls
