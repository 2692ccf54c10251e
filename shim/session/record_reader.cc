#include "shim/session/record_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include <netinet/in.h>
#include <netinet/tcp.h>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"

namespace inlay::shim {
namespace {

using policy::Reason;
using tls::ContentType;

constexpr tls::Alert kUnexpectedMessage = tls::Alert::unexpected_message;
constexpr tls::Alert kBadRecordMac = tls::Alert::bad_record_mac;
constexpr tls::Alert kRecordOverflow = tls::Alert::record_overflow;
constexpr tls::Alert kDecodeError = tls::Alert::decode_error;

Outcome broken(Reason reason, const char *detail, const tls::Alert *alert) noexcept {
  return Outcome{Fill::broken, reason, detail, alert, 0};
}

Outcome record_failure(tls::RecordError error) noexcept {
  switch (error) {
    case tls::RecordError::overflow:
      return broken(Reason::record_overflow, "", &kRecordOverflow);
    case tls::RecordError::bad_mac:
    case tls::RecordError::too_short:
      return broken(Reason::record_authentication, "", &kBadRecordMac);
    case tls::RecordError::not_tls:
    case tls::RecordError::unexpected_type:
    case tls::RecordError::no_content_type:
      return broken(Reason::protocol_violation, "unexpected record", &kUnexpectedMessage);
    default:
      return broken(Reason::internal_error, "record protection failed", nullptr);
  }
}

// A peer may go on for long without a FIN behind its close_notify. The program's end of the stream must
// stay readable like any other.
void end_kernel_stream(int fd) noexcept {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return;
  if (info.tcpi_state == TCP_ESTABLISHED || info.tcpi_state == TCP_FIN_WAIT1 ||
      info.tcpi_state == TCP_FIN_WAIT2) {
    kernel::shut_down(fd, SHUT_RD);
  }
}

constexpr Outcome kInterruptedMessage{Fill::broken, Reason::protocol_violation,
                                     "a handshake message was interrupted", &kUnexpectedMessage, 0};

}  // namespace

bool RecordReader::make_cipher() noexcept {
  if (local_.open != nullptr && local_.open->key_generation() == rx_.traffic.key_generation) {
    return true;
  }
  delete local_.open;
  local_.open = tls::RecordCipher::make(rx_.traffic, false).release();
  return local_.open != nullptr;
}

bool RecordReader::head_record(std::size_t &record, Outcome &outcome) noexcept {
  record = 0;
  if (rx_.head_length < tls::kHeaderLength) return true;
  auto header = tls::parse_header({head(), tls::kHeaderLength});
  if (!header) {
    outcome = record_failure(header.error());
    return false;
  }
  record = tls::kHeaderLength + header->length;
  return true;
}

bool RecordReader::store_head(const std::uint8_t *bytes, std::size_t length) noexcept {
  if (rx_.head_chunk == kNoChunk) rx_.head_chunk = take_chunk(slot_);
  if (rx_.head_chunk == kNoChunk) return false;
  std::memcpy(head(), bytes, length);
  rx_.head_length = static_cast<std::uint32_t>(length);
  return true;
}

void RecordReader::drop_head() noexcept {
  rx_.head_length = 0;
  if (rx_.head_chunk != kNoChunk) {
    return_chunk(slot_, rx_.head_chunk);
    rx_.head_chunk = kNoChunk;
  }
}

Outcome RecordReader::end_of_stream() noexcept {
  if (rx_.shut) return Outcome{.fill = Fill::end};  // the kernel's answer to our own shutdown
  if (slot_.reason.load(std::memory_order_acquire) == Reason::reset_by_peer) {
    return broken(Reason::reset_by_peer, "", nullptr);  // the helper took the kernel's error
  }
  if (rx_.head_length > 0) return broken(Reason::truncated, "", nullptr);
  if (slot_.bare_fin == policy::BareFin::eof) return Outcome{.fill = Fill::end};
  return broken(Reason::bare_fin, "", nullptr);
}

Outcome RecordReader::control(ContentType type, std::span<const std::uint8_t> plaintext) noexcept {
  if (type == ContentType::alert) {
    std::optional<tls::Alert> alert = tls::decode(plaintext);
    if (!alert) return broken(Reason::protocol_violation, "malformed alert", &kDecodeError);
    if (*alert == tls::Alert::close_notify) {
      rx_.close_notify = true;
      end_kernel_stream(fd_);
      return Outcome{.fill = Fill::end};
    }
    if (*alert == tls::Alert::user_canceled) {
      if (!rx_.post_handshake.empty_seen()) {
        return broken(Reason::protocol_violation, "alert flood", &kUnexpectedMessage);
      }
      return Outcome{.fill = Fill::filled};
    }
    return broken(Reason::refused_by_peer, tls::name(*alert).data(), nullptr);
  }
  if (type != ContentType::handshake) {
    return broken(Reason::protocol_violation, "unexpected record type", &kUnexpectedMessage);
  }
  switch (rx_.post_handshake.consume(plaintext, rx_.from_server)) {
    case tls::PostHandshakeEvent::need_more:
      return Outcome{.fill = Fill::filled};
    case tls::PostHandshakeEvent::key_update_requested:
      slot_.key_update_due.store(true, std::memory_order_release);
      notify_helper(slot_);  // in case no writer comes
      [[fallthrough]];
    case tls::PostHandshakeEvent::key_update:
      if (!tls::update(rx_.traffic)) {
        return broken(Reason::internal_error, "key update failed", nullptr);
      }
      return Outcome{.fill = Fill::filled};
    case tls::PostHandshakeEvent::violation:
      break;
  }
  return broken(Reason::protocol_violation, "unexpected handshake message", &kUnexpectedMessage);
}

// Reads up to `wanted` more bytes of an incomplete record into the head chunk.
Outcome RecordReader::fill_head(std::size_t wanted) noexcept {
  if (rx_.head_chunk == kNoChunk) rx_.head_chunk = take_chunk(slot_);
  if (rx_.head_chunk == kNoChunk) {
    return broken(Reason::out_of_resources, "no chunk for an incomplete record", nullptr);
  }
  long got = kernel::receive(fd_, head() + rx_.head_length, wanted, MSG_DONTWAIT);
  if (got > 0) {
    rx_.head_length += static_cast<std::uint32_t>(got);
    short_read_ = static_cast<std::size_t>(got) < wanted;
    return Outcome{.fill = Fill::filled};
  }
  if (rx_.head_length == 0) drop_head();
  if (got == 0) return end_of_stream();
  if (got == -EAGAIN) return Outcome{.fill = Fill::drained};
  return Outcome{.fill = Fill::error, .error = static_cast<int>(-got)};
}

// Consumes ciphertext up to the caller's room and delivers every whole record in it.
Outcome RecordReader::read_whole_records() noexcept {
  std::size_t held = rx_.head_length;
  std::size_t wanted = std::min(sink_.room() + tls::kRecordOverhead - held, kScratchSize - held);
  if (held > 0) std::memcpy(scratch_.bytes, head(), held);
  long got = kernel::receive(fd_, scratch_.bytes + held, wanted, MSG_DONTWAIT);
  if (got == 0) return end_of_stream();
  if (got == -EAGAIN) return Outcome{.fill = Fill::drained};
  if (got < 0) return Outcome{.fill = Fill::error, .error = static_cast<int>(-got)};
  short_read_ = static_cast<std::size_t>(got) < wanted;

  const std::uint8_t *at = scratch_.bytes;
  std::size_t left = held + static_cast<std::size_t>(got);
  Outcome outcome{.fill = Fill::filled};
  while (left >= tls::kHeaderLength) {
    auto header = tls::parse_header({at, tls::kHeaderLength});
    if (!header) return record_failure(header.error());
    std::size_t record = tls::kHeaderLength + header->length;
    if (left < record) break;
    if (!make_cipher()) return broken(Reason::out_of_resources, "no cipher context", nullptr);
    // Straight into the program's buffer where plaintext and inner type fit: the byte behind the
    // plaintext is put back, a program may count on it.
    std::span<std::uint8_t> front = sink_.front();
    std::size_t plain = record - std::min(record, tls::kRecordOverhead);
    bool direct = front.size() > plain;
    std::uint8_t *out = direct ? front.data() : scratch_.plain;
    std::uint8_t behind = direct ? front[plain] : std::uint8_t{0};
    auto opened = local_.open->open(rx_.traffic.sequence, {at, record}, out);
    if (direct) front[plain] = behind;
    if (!opened) return record_failure(opened.error());
    ++rx_.traffic.sequence;
    at += record;
    left -= record;
    if (interrupts_message(opened->type)) {
      if (direct) std::memset(out, 0, opened->length);
      return kInterruptedMessage;
    }
    if (opened->type == ContentType::application_data) {
      if (opened->length > 0) {
        rx_.post_handshake.data_seen();
        if (direct) {
          sink_.advance(opened->length);
        } else {
          sink_.put(out, opened->length);
        }
      } else if (!rx_.post_handshake.empty_seen()) {
        return broken(Reason::protocol_violation, "flood of empty records", &kUnexpectedMessage);
      }
      continue;
    }
    outcome = control(opened->type, {out, opened->length});
    if (direct) std::memset(out, 0, opened->length);
    if (outcome.fill != Fill::filled) break;
  }
  if (left > 0 && outcome.fill == Fill::filled) {
    if (!store_head(at, left)) {
      return broken(Reason::out_of_resources, "no chunk for an incomplete record", nullptr);
    }
  } else {
    drop_head();
  }
  return outcome;
}

// Makes the cache hold the plaintext of the record whose head is in the chunk and whose rest is in
// the kernel. False with an outcome when the record is incomplete or does not open.
bool RecordReader::open_staying(std::size_t record, Outcome &outcome) noexcept {
  if (local_.opened_valid && local_.opened_sequence == rx_.traffic.sequence &&
      local_.opened_generation == rx_.traffic.key_generation) {
    return true;
  }
  std::size_t rest = record - rx_.head_length;
  long got = kernel::receive(fd_, scratch_.bytes, rest, MSG_DONTWAIT | MSG_PEEK);
  if (got <= 0) {
    outcome = got == 0         ? end_of_stream()
              : got == -EAGAIN ? Outcome{.fill = Fill::drained}
                               : Outcome{.fill = Fill::error, .error = static_cast<int>(-got)};
    return false;
  }
  if (static_cast<std::size_t>(got) < rest) {
    // Incomplete: what is here may be taken, since the rest must still arrive. Or never will: run()
    // looks once more.
    outcome = fill_head(static_cast<std::size_t>(got));
    short_read_ = true;
    return false;
  }
  if (!make_cipher()) {
    outcome = broken(Reason::out_of_resources, "no cipher context", nullptr);
    return false;
  }
  if (local_.opened == nullptr) {
    local_.opened = new (std::nothrow) std::uint8_t[tls::kMaxCiphertext];
    if (local_.opened == nullptr) {
      outcome = broken(Reason::out_of_resources, "no memory for a record", nullptr);
      return false;
    }
  }
  auto opened = local_.open->open(rx_.traffic.sequence, {head(), rx_.head_length},
                                  {scratch_.bytes, rest}, local_.opened);
  if (!opened) {
    outcome = record_failure(opened.error());
    return false;
  }
  local_.opened_valid = true;
  local_.opened_type = opened->type;
  local_.opened_length = static_cast<std::uint32_t>(opened->length);
  local_.opened_sequence = rx_.traffic.sequence;
  local_.opened_generation = rx_.traffic.key_generation;
  return true;
}

Outcome RecordReader::read_staying_record(std::size_t record) noexcept {
  Outcome outcome;
  if (!open_staying(record, outcome)) return outcome;
  if (interrupts_message(local_.opened_type)) return kInterruptedMessage;
  std::size_t rest = record - rx_.head_length;
  auto commit = [&]() noexcept {
    kernel::receive(fd_, nullptr, rest, MSG_DONTWAIT | MSG_TRUNC);
    ++rx_.traffic.sequence;
    rx_.taken = 0;
    local_.opened_valid = false;
    drop_head();
  };
  if (local_.opened_type != ContentType::application_data || local_.opened_length == 0) {
    ContentType type = local_.opened_type;
    std::span<const std::uint8_t> plaintext{local_.opened, local_.opened_length};
    commit();
    if (type != ContentType::application_data) return control(type, plaintext);
    if (!rx_.post_handshake.empty_seen()) {
      return broken(Reason::protocol_violation, "flood of empty records", &kUnexpectedMessage);
    }
    return Outcome{.fill = Fill::filled};
  }
  rx_.post_handshake.data_seen();
  std::size_t part = std::min<std::size_t>(local_.opened_length - rx_.taken, sink_.room());
  sink_.put(local_.opened + rx_.taken, part);
  if (peek_) return sink_.room() > 0 ? peek_further(record) : Outcome{.fill = Fill::filled};
  rx_.taken += static_cast<std::uint32_t>(part);
  if (rx_.taken == local_.opened_length) commit();
  return Outcome{.fill = Fill::filled};
}

// MSG_PEEK with room behind the first record: opens the whole records that follow it in the kernel,
// committing nothing.
Outcome RecordReader::peek_further(std::size_t first_record) noexcept {
  std::size_t at = first_record - rx_.head_length;
  std::uint64_t sequence = rx_.traffic.sequence;
  tls::PostHandshake idle = rx_.post_handshake;
  for (std::size_t most : {kScratchSize, SIZE_MAX}) {  // the scratch does nearly always
    QueueView queue(fd_, scratch_, most);
    std::span<const std::uint8_t> bytes = queue.bytes();
    while (at + tls::kHeaderLength <= bytes.size() && sink_.room() > 0) {
      auto header = tls::parse_header(bytes.subspan(at, tls::kHeaderLength));
      if (!header || at + tls::kHeaderLength + header->length > bytes.size()) break;
      std::size_t record = tls::kHeaderLength + header->length;
      auto opened = local_.open->open(++sequence, bytes.subspan(at, record), scratch_.plain);
      // Whatever is wrong with it is found when it is read.
      if (!opened || opened->type != ContentType::application_data) {
        return Outcome{.fill = Fill::filled};
      }
      if (opened->length > 0) {
        idle.data_seen();
      } else if (!idle.empty_seen()) {
        return Outcome{.fill = Fill::filled};
      }
      sink_.put(scratch_.plain, std::min(opened->length, sink_.room()));
      at += record;
    }
    if (sink_.room() == 0 || bytes.size() < kScratchSize) break;
  }
  return Outcome{.fill = Fill::filled};
}

// The program reads no further than FIONREAD said. What follows of a record whose rest is still to come
// must not stay in the kernel: it can fill a receive window that the rest then never gets through.
Outcome RecordReader::gather() noexcept {
  while (rx_.taken == 0 && !rx_.close_notify) {
    Outcome outcome;
    std::size_t record = 0;
    if (!head_record(record, outcome)) return outcome;
    outcome = record == 0 ? fill_head(tls::kHeaderLength - rx_.head_length)
                          : read_staying_record(record);
    if (outcome.fill == Fill::drained) rx_.gathers = false;
    if (outcome.fill == Fill::drained) break;
    if (outcome.fill != Fill::filled) return outcome;
    // It reads less than that, and stops in front of a whole record.
    if (local_.opened_valid && local_.opened_sequence == rx_.traffic.sequence) break;
  }
  return Outcome{.fill = Fill::filled};
}

Outcome RecordReader::run() noexcept {
  while (sink_.room() > 0) {
    if (rx_.close_notify) return Outcome{.fill = Fill::end};
    Outcome outcome;
    std::size_t record = 0;
    if (!head_record(record, outcome)) return outcome;
    if (record == 0 && peek_) {
      outcome = fill_head(tls::kHeaderLength - rx_.head_length);
    } else if (record != 0 && must_stay(record)) {
      outcome = read_staying_record(record);
      if (peek_ && progress()) return outcome;
    } else {
      outcome = read_whole_records();
    }
    if (outcome.fill != Fill::filled) return outcome;
    // The queue is empty: no probe for more. But where nothing was for the program, the end may stand
    // behind it, whose edge came with it.
    if (short_read_ && progress()) return Outcome{.fill = Fill::drained};
    short_read_ = false;
  }
  return rx_.gathers && !peek_ ? gather() : Outcome{.fill = Fill::filled};
}

}  // namespace inlay::shim
