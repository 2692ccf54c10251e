// The record layer against a hostile peer. Bytes that the peer did not seal never open; records it
// did seal open to what it put in, whole or cut in two; and what is inside may be any handshake
// message.
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "input.h"
#include "tls/post_handshake.h"
#include "tls/record.h"

namespace {

using namespace inlay::tls;
using inlay::fuzz::Input;
using inlay::fuzz::must;

struct Direction {
  TrafficState state;
  std::unique_ptr<RecordCipher> seal, open;

  explicit Direction(Suite suite) {
    const std::vector<std::uint8_t> secret(hash_length(suite), 0x5a);
    must(derive(state, suite, secret));
    renew();
  }
  void renew() {
    seal = RecordCipher::make(state, true);
    open = RecordCipher::make(state, false);
    must(seal != nullptr && open != nullptr);
  }
};

void forged(Direction &direction, Input &input) {
  auto bytes = input.bytes(600);
  auto header = parse_header(bytes);
  if (!header) return;
  must(header->length <= kMaxCiphertext);
  std::vector<std::uint8_t> record(bytes.begin(), bytes.end());
  if (record.size() < kHeaderLength + header->length) return;
  record.resize(kHeaderLength + header->length);
  std::vector<std::uint8_t> out(header->length + 1);
  auto opened = direction.open->open(direction.state.sequence, record, out.data());
  must(!opened);
}

void sealed(Direction &direction, Input &input, PostHandshake &post, bool client) {
  constexpr ContentType kTypes[] = {ContentType::application_data, ContentType::handshake,
                                    ContentType::alert, ContentType::change_cipher_spec,
                                    ContentType::invalid};
  const ContentType type = kTypes[input.byte() % std::size(kTypes)];
  const std::size_t cut = input.number();
  auto content = input.bytes(input.number());
  std::vector<std::uint8_t> record(content.size() + kRecordOverhead);
  const iovec parts[] = {{const_cast<std::uint8_t *>(content.data()), content.size()}};
  const std::uint64_t sequence = direction.state.sequence++;
  const std::size_t size =
      direction.seal->seal(sequence, type, parts, 0, content.size(), record.data());
  if (size == 0) return;
  record.resize(size);
  std::vector<std::uint8_t> out(size), cut_out(size);
  auto opened = direction.open->open(sequence, record, out.data());
  auto head = std::span<const std::uint8_t>(record).first(cut % (size + 1));
  auto rest = std::span<const std::uint8_t>(record).subspan(head.size());
  auto cut_opened = direction.open->open(sequence, head, rest, cut_out.data());
  must(opened.has_value() == cut_opened.has_value());
  if (!opened) {
    must(opened.error() == cut_opened.error() && opened.error() != RecordError::bad_mac);
    return;
  }
  must(opened->length == cut_opened->length && opened->type == cut_opened->type);
  must(opened->length == 0 || std::memcmp(out.data(), cut_out.data(), opened->length) == 0);
  // Of type 0 a record's content is padding behind whatever its last byte that is not 0 says.
  must(type == ContentType::invalid || (opened->type == type && opened->length == content.size()));
  must(opened->length == 0 || std::memcmp(out.data(), content.data(), opened->length) == 0);
  must(!direction.open->open(sequence + 1, record, out.data()));

  if (type != ContentType::handshake) return;
  switch (post.consume(content, client)) {
    case PostHandshakeEvent::key_update:
    case PostHandshakeEvent::key_update_requested:
      must(update(direction.state));
      direction.renew();
      break;
    default:
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  Input input(data, size);
  constexpr Suite kSuites[] = {Suite::aes_128_gcm_sha256, Suite::aes_256_gcm_sha384,
                               Suite::chacha20_poly1305_sha256};
  const std::uint8_t choice = input.byte();
  Direction direction(kSuites[choice % std::size(kSuites)]);
  PostHandshake post;
  for (int step = 0; step < 64 && !input.empty(); ++step) {
    if (input.byte() % 2 == 0) {
      forged(direction, input);
    } else {
      sealed(direction, input, post, choice >= 128);
    }
  }
  return 0;
}
