// Receiving. The rule: never hold a complete record's plaintext while the kernel's queue is empty,
// so that poll, select and epoll tell the program the truth without being hooked.
//
//  - A call with room for n bytes reads at most n + 22 bytes of ciphertext: whatever whole records
//    are in them fit the caller. The head of an incomplete record stays in a chunk of the arena;
//    its rest must still arrive and raises readiness.
//  - A record whose plaintext exceeds the room stays in the kernel: its rest is peeked, opened into
//  a
//    cache, and committed (MSG_TRUNC) once its last byte is delivered.
//  - The buffer is filled while whole records are there: edge-triggered programs read a short count
//  as
//    "drained".
#include "shim/session/receive.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/hooks/next.h"
#include "shim/session/internal.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

using policy::Reason;
using tls::ContentType;

// The caller's buffers, filled from the front.
class Sink {
 public:
  Sink(std::span<const iovec> parts, bool discard) noexcept : parts_(parts), discard_(discard) {
    for (const iovec &part : parts) room_ += part.iov_len;
    skip_empty();
  }
  std::size_t room() const noexcept { return room_; }
  std::size_t delivered() const noexcept { return delivered_; }

  // Where the next bytes go, and how many fit there in one piece.
  std::span<std::uint8_t> front() const noexcept {
    if (discard_ || index_ == parts_.size()) return {};
    const iovec &part = parts_[index_];
    return {static_cast<std::uint8_t *>(part.iov_base) + offset_, part.iov_len - offset_};
  }
  void advance(std::size_t length) noexcept {
    room_ -= length;
    delivered_ += length;
    while (length > 0) {
      std::size_t step = std::min(length, parts_[index_].iov_len - offset_);
      offset_ += step;
      length -= step;
      skip_empty();
    }
  }
  void put(const std::uint8_t *bytes, std::size_t length) noexcept {
    while (length > 0) {
      std::span<std::uint8_t> to = front();
      std::size_t step = discard_ ? length : std::min(length, to.size());
      if (!discard_) std::memcpy(to.data(), bytes, step);
      advance(step);
      bytes += step;
      length -= step;
    }
  }

 private:
  void skip_empty() noexcept {
    while (index_ < parts_.size() && offset_ == parts_[index_].iov_len) {
      ++index_;
      offset_ = 0;
    }
  }

  std::span<const iovec> parts_;
  std::size_t index_ = 0;
  std::size_t offset_ = 0;
  std::size_t room_ = 0;
  std::size_t delivered_ = 0;
  bool discard_;
};

enum class Fill : std::uint8_t {
  filled,   // no room left, or a peek has what it wants
  drained,  // the kernel has no whole record
  end,      // close_notify, or a FIN that the rule takes for one
  broken,   // fail the session with `reason`
  error,    // the kernel's `error`
};

struct Outcome {
  Fill fill = Fill::drained;
  Reason reason = Reason::none;
  const char *detail = "";
  const tls::Alert *alert = nullptr;
  int error = 0;
};

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

constexpr Outcome kInterruptedMessage{Fill::broken, Reason::protocol_violation,
                                     "a handshake message was interrupted", &kUnexpectedMessage, 0};

// Reads a session's records on behalf of one call. receive_lock is held throughout.
class Reader {
 public:
  Reader(Slot &slot, int fd, Scratch &scratch, Sink &sink, bool peek) noexcept
      : slot_(slot),
        rx_(slot.receiving),
        local_(local(slot)),
        fd_(fd),
        scratch_(scratch),
        sink_(sink),
        peek_(peek) {}

  Outcome run() noexcept;

 private:
  // The record whose head is known needs the kernel to keep it: its plaintext exceeds the room, or
  // part of it is delivered, or the program only peeks.
  bool must_stay(std::size_t record) const noexcept {
    return peek_ || rx_.taken > 0 || record - std::min(record, tls::kRecordOverhead) > sink_.room();
  }
  bool make_cipher() noexcept;
  // A handshake message that goes on in the next record: nothing else may come between (§5.1).
  bool interrupts_message(ContentType type) const noexcept {
    return type != ContentType::handshake && rx_.post_handshake.mid_message();
  }
  // Length of the record the head begins, 0 while fewer than 5 bytes are known.
  bool head_record(std::size_t &record, Outcome &outcome) noexcept;
  Outcome fill_head(std::size_t wanted) noexcept;
  Outcome read_whole_records() noexcept;
  Outcome read_staying_record(std::size_t record) noexcept;
  Outcome peek_further(std::size_t first_record) noexcept;
  bool open_staying(std::size_t record, Outcome &outcome) noexcept;
  bool store_head(const std::uint8_t *bytes, std::size_t length) noexcept;
  void drop_head() noexcept;
  Outcome end_of_stream() noexcept;
  Outcome control(ContentType type, std::span<const std::uint8_t> plaintext) noexcept;
  std::uint8_t *head() noexcept { return chunk_at(slot_, rx_.head_chunk).bytes; }
  bool progress() const noexcept { return sink_.delivered() > 0; }

  Slot &slot_;
  Receiving &rx_;
  Local &local_;
  int fd_;
  Scratch &scratch_;
  Sink &sink_;
  bool peek_;
  bool short_read_ = false;  // the kernel's queue was emptied
};

bool Reader::make_cipher() noexcept {
  if (local_.open != nullptr && local_.open->key_generation() == rx_.traffic.key_generation) {
    return true;
  }
  delete local_.open;
  local_.open = tls::RecordCipher::make(rx_.traffic, false).release();
  return local_.open != nullptr;
}

bool Reader::head_record(std::size_t &record, Outcome &outcome) noexcept {
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

bool Reader::store_head(const std::uint8_t *bytes, std::size_t length) noexcept {
  if (rx_.head_chunk == kNoChunk) rx_.head_chunk = take_chunk(slot_);
  if (rx_.head_chunk == kNoChunk) return false;
  std::memcpy(head(), bytes, length);
  rx_.head_length = static_cast<std::uint32_t>(length);
  return true;
}

void Reader::drop_head() noexcept {
  rx_.head_length = 0;
  if (rx_.head_chunk != kNoChunk) {
    return_chunk(slot_, rx_.head_chunk);
    rx_.head_chunk = kNoChunk;
  }
}

Outcome Reader::end_of_stream() noexcept {
  if (rx_.shut) return Outcome{.fill = Fill::end};  // the kernel's answer to our own shutdown
  if (rx_.head_length > 0) return broken(Reason::truncated, "", nullptr);
  if (slot_.bare_fin == policy::BareFin::eof) return Outcome{.fill = Fill::end};
  return broken(Reason::bare_fin, "", nullptr);
}

Outcome Reader::control(ContentType type, std::span<const std::uint8_t> plaintext) noexcept {
  if (type == ContentType::alert) {
    std::optional<tls::Alert> alert = tls::decode(plaintext);
    if (!alert) return broken(Reason::protocol_violation, "malformed alert", &kDecodeError);
    if (*alert == tls::Alert::close_notify) {
      rx_.close_notify = true;
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
  switch (rx_.post_handshake.consume(plaintext, slot_.direction == policy::Direction::outbound)) {
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
Outcome Reader::fill_head(std::size_t wanted) noexcept {
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
Outcome Reader::read_whole_records() noexcept {
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
bool Reader::open_staying(std::size_t record, Outcome &outcome) noexcept {
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
    // Incomplete: what is here may be taken, since the rest must still arrive.
    outcome = fill_head(static_cast<std::size_t>(got));
    if (outcome.fill == Fill::filled) outcome.fill = Fill::drained;
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

Outcome Reader::read_staying_record(std::size_t record) noexcept {
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
Outcome Reader::peek_further(std::size_t first_record) noexcept {
  std::size_t skip = first_record - rx_.head_length;
  long got = kernel::receive(fd_, scratch_.bytes, kScratchSize, MSG_DONTWAIT | MSG_PEEK);
  std::uint64_t sequence = rx_.traffic.sequence;
  std::size_t end = got > 0 ? static_cast<std::size_t>(got) : 0;
  for (std::size_t at = skip; at + tls::kHeaderLength <= end && sink_.room() > 0;) {
    auto header = tls::parse_header({scratch_.bytes + at, tls::kHeaderLength});
    if (!header || at + tls::kHeaderLength + header->length > end) break;
    std::size_t record = tls::kHeaderLength + header->length;
    auto opened = local_.open->open(++sequence, {scratch_.bytes + at, record}, scratch_.plain);
    // Whatever is wrong with it is found when it is read.
    if (!opened || opened->type != ContentType::application_data) break;
    sink_.put(scratch_.plain, std::min(opened->length, sink_.room()));
    at += record;
  }
  return Outcome{.fill = Fill::filled};
}

Outcome Reader::run() noexcept {
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
    if (short_read_)
      return Outcome{.fill = Fill::drained};  // the queue is empty: no probe for more
  }
  return Outcome{.fill = Fill::filled};
}

bool is_shut_for_reading(Slot &slot) noexcept {
  Locked guard(slot.receive_lock);
  return !guard.reentered() && !guard.owner_gone() && slot.receiving.shut;
}

// After shutdown(SHUT_RDWR) the kernel answers the peer's close_notify with a reset, as it does any data
// that nobody may read. Without TLS there would have been a FIN alone.
bool ended_by_us(Slot &slot, int error) noexcept {
  return error == ECONNRESET && is_shut_for_reading(slot);
}

}  // namespace

ssize_t receive(Slot &slot, int fd, std::span<const iovec> parts, int flags) {
  if ((flags & MSG_ERRQUEUE) != 0) {
    msghdr message{};
    message.msg_iov = const_cast<iovec *>(parts.data());
    message.msg_iovlen = parts.size();
    return next.recvmsg(fd, &message, flags);
  }
  if ((flags & MSG_OOB) != 0) {
    note_unsupported(slot, fd, "MSG_OOB");
    errno = EINVAL;  // what TCP says when there is no urgent data
    return -1;
  }
  const int entry_errno = errno;
  const bool peek = (flags & MSG_PEEK) != 0;
  const bool wait_all = (flags & MSG_WAITALL) != 0 && !peek;
  Sink sink(parts, (flags & MSG_TRUNC) != 0);
  if (sink.room() == 0) {
    // TCP waits for data, or its end, even when there is no room for any.
    iovec nowhere{nullptr, 1};
    ssize_t got = receive(slot, fd, {&nowhere, 1}, (flags & MSG_DONTWAIT) | MSG_PEEK | MSG_TRUNC);
    return got > 0 ? 0 : got;
  }
  const std::uint32_t generation = slot.generation.load(std::memory_order_relaxed);
  bool slept = false;
  bool sleep_first = (flags & MSG_DONTWAIT) == 0 && sink.room() > 0 &&
                     slot.state.load(std::memory_order_acquire) == State::established &&
                     local(slot).expects_wait.load(std::memory_order_relaxed);
  for (;;) {
    if (slot.generation.load(std::memory_order_relaxed) != generation ||
        descriptor_word(fd) != managed_word(&slot) ||
        slot.state.load(std::memory_order_acquire) == State::free) {
      // Closed while this call slept.
      if (sink.delivered() > 0) break;
      errno = EBADF;
      return -1;
    }
    State state = slot.state.load(std::memory_order_acquire);
    if (state == State::failed) {
      if (sink.delivered() > 0) break;
      return receive_on_failed(slot);
    }
    if (state != State::established) {
      if (state == State::connecting && connecting_failed(fd)) {
        int error = take_socket_error(fd);
        if (error == 0) return 0;
        errno = error;
        return -1;
      }
      take_ownership(slot, fd);
      if (is_shut_for_reading(slot)) return 0;
      Waited waited = wait_for_session(slot, fd, flags, SO_RCVTIMEO);
      if (waited == Waited::changed) continue;
      errno = waited == Waited::interrupted ? EINTR : EAGAIN;
      return -1;
    }
    keep_watch();
    if (!sleep_first) {
      Outcome outcome;
      {
        BorrowedScratch scratch;
        Locked guard(slot.receive_lock);
        if (guard.reentered() || !scratch) {
          if (sink.delivered() > 0) break;
          errno = scratch ? EAGAIN : ENOMEM;
          return -1;
        }
        if (guard.owner_gone()) {
          guard.unlock();
          poison(slot, fd);
          continue;
        }
        if (descriptor_word(fd) != managed_word(&slot)) continue;
        // After shutdown(SHUT_RD) what is there can still be read; nothing is waited for.
        outcome = Reader(slot, fd, *scratch.operator->(), sink, peek).run();
        if (outcome.fill == Fill::drained && slot.receiving.shut) outcome.fill = Fill::end;
      }
      if (outcome.fill == Fill::broken) {
        fail_closed(slot, fd, outcome.reason, outcome.detail, outcome.alert);
        continue;
      }
      if (outcome.fill == Fill::error) {
        if (sink.delivered() > 0 || ended_by_us(slot, outcome.error)) break;
        if (outcome.error == ECONNRESET || outcome.error == ETIMEDOUT || outcome.error == EPIPE) {
          fail_closed(slot, fd, Reason::reset_by_peer);
          slot.error_taken.store(true, std::memory_order_relaxed);
        }
        errno = outcome.error;
        return -1;
      }
      if (outcome.fill == Fill::end) break;
      if (sink.room() == 0 || (sink.delivered() > 0 && !wait_all)) break;
      if ((flags & MSG_DONTWAIT) != 0) {
        if (sink.delivered() > 0) break;
        errno = EAGAIN;
        return -1;
      }
    }
    sleep_first = false;
    // The kernel's own blocking receive: EINTR, SA_RESTART, SO_RCVTIMEO and O_NONBLOCK are its own.
    std::uint8_t byte;
    ssize_t woken = next.recv(fd, &byte, 1, MSG_PEEK);
    if (woken < 0 && ended_by_us(slot, errno)) continue;  // the reader says how it ends
    if (woken < 0) {
      if (errno == EAGAIN) local(slot).expects_wait.store(false, std::memory_order_relaxed);
      if (sink.delivered() > 0) break;
      if (errno == ECONNRESET || errno == ETIMEDOUT) {
        int error = errno;
        fail_closed(slot, fd, Reason::reset_by_peer);
        slot.error_taken.store(true, std::memory_order_relaxed);
        errno = error;
      }
      return -1;
    }
    slept = true;
  }
  if (sink.delivered() > 0 && !peek) {
    slot.bytes_in.fetch_add(sink.delivered(), std::memory_order_relaxed);
    if (slept != local(slot).expects_wait.load(std::memory_order_relaxed)) {
      local(slot).expects_wait.store(slept, std::memory_order_relaxed);
    }
  }
  errno = entry_errno;
  return static_cast<ssize_t>(sink.delivered());
}

ssize_t receive_message(Slot &slot, int fd, msghdr *message, int flags) {
  if ((flags & MSG_ERRQUEUE) != 0) return next.recvmsg(fd, message, flags);
  ssize_t got = receive(slot, fd, {message->msg_iov, message->msg_iovlen}, flags);
  if (got >= 0) {
    // TCP gives no address and no control data here (tcp_recvmsg), except what options ask for.
    message->msg_namelen = 0;
    message->msg_controllen = 0;
    message->msg_flags = flags & MSG_CMSG_CLOEXEC;
  }
  return got;
}

// Runs a reader that consumes only control records: what is left at the front is data, opened into
// the cache. False when there is none. receive_lock held.
static bool find_data(Slot &slot, int fd, Scratch &scratch) noexcept {
  // A sink that discards: the plaintext goes nowhere.
  iovec nowhere{nullptr, 1};
  Sink sink({&nowhere, 1}, true);
  Reader(slot, fd, scratch, sink, true).run();
  return sink.delivered() > 0;
}

// Application bytes of the whole records in `queued`, by their headers; one more where an
// incomplete record follows: a program that stops at the answer would leave that record's head in
// the kernel, where it can fill a receive window that its rest then never gets through.
static std::size_t count_records(std::span<const std::uint8_t> queued) noexcept {
  std::size_t total = 0;
  while (queued.size() >= tls::kHeaderLength) {
    auto header = tls::parse_header(queued.first(tls::kHeaderLength));
    if (!header || queued.size() < tls::kHeaderLength + header->length) break;
    std::size_t record = tls::kHeaderLength + header->length;
    total += record - std::min(record, tls::kRecordOverhead);
    queued = queued.subspan(record);
  }
  return queued.empty() ? total : total + 1;
}

int readable_bytes(Slot &slot, int fd) noexcept {
  State state = slot.state.load(std::memory_order_acquire);
  if (state != State::established) return state == State::failed ? -1 : 0;
  BorrowedScratch scratch;
  if (!scratch) return 0;
  Locked guard(slot.receive_lock);
  if (guard.reentered() || guard.owner_gone()) return 0;
  if (!find_data(slot, fd, *scratch.operator->())) return 0;
  const Receiving &rx = slot.receiving;
  auto header = tls::parse_header({chunk_at(slot, rx.head_chunk).bytes, tls::kHeaderLength});
  std::size_t total = local(slot).opened_length - rx.taken;
  if (!header) return static_cast<int>(total);
  std::size_t rest = tls::kHeaderLength + header->length - rx.head_length;

  // Event loops take bytes beyond the answer for new arrivals that come with an edge of their own
  // (nginx does): all whole records must be counted, however long the queue.
  constexpr std::size_t kQueueLimit = 64u << 20;
  long queued = kernel::receive(fd, nullptr, kQueueLimit, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  if (queued <= static_cast<long>(rest)) return static_cast<int>(total);
  auto length = static_cast<std::size_t>(queued);
  std::uint8_t *window = scratch->bytes;
  if (length > kScratchSize) {
    long mapped = kernel::call(SYS_mmap, 0, queued, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped < 0 && mapped > -4096) {
      length = kScratchSize;
    } else {
      window = reinterpret_cast<std::uint8_t *>(mapped);
    }
  }
  long got = kernel::receive(fd, window, length, MSG_PEEK | MSG_DONTWAIT);
  if (got > static_cast<long>(rest)) {
    total += count_records({window + rest, static_cast<std::size_t>(got) - rest});
  }
  if (window != scratch->bytes) kernel::call(SYS_munmap, kernel::word(window), queued);
  return static_cast<int>(std::min<std::size_t>(total, INT32_MAX));
}

bool swallow_control_records(Slot &slot, int fd) noexcept {
  BorrowedScratch scratch;
  Locked guard(slot.receive_lock);
  return scratch && !guard.reentered() && !guard.owner_gone() &&
         find_data(slot, fd, *scratch.operator->());
}

}  // namespace inlay::shim
