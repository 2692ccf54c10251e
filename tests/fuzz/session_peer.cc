#include "session_peer.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "input.h"
#include "shim/arena/kernel.h"

namespace inlay::fuzz {
namespace {

namespace kernel = shim::kernel;

// More records without data in a row are a flood (tls::PostHandshake).
constexpr int kPatience = 32;

}  // namespace

Peer::~Peer() {
  if (!reset_sent) reset();
}

void Peer::begin(const tls::TrafficState &send, const tls::TrafficState &receive) {
  send_ = send;
  receive_ = receive;
  sealer_ = tls::RecordCipher::make(send_, true);
  opener_ = tls::RecordCipher::make(receive_, false);
  must(sealer_ != nullptr && opener_ != nullptr);
}

void Peer::begin(std::unique_ptr<tls::Handshake> handshake) {
  handshake_ = std::move(handshake);
  must(handshake_ != nullptr);
  advance_handshake();
}

void Peer::seal(tls::ContentType type, std::span<const std::uint8_t> content, Event::Kind kind) {
  if (!established() || fin_sent || reset_sent) return;
  std::vector<std::uint8_t> record(content.size() + tls::kRecordOverhead);
  const iovec part{const_cast<std::uint8_t *>(content.data()), content.size()};
  const std::size_t size =
      sealer_->seal(send_.sequence++, type, {&part, 1}, 0, content.size(), record.data());
  must(size == record.size());
  pending_.insert(pending_.end(), record.begin(), record.end());
  wire_sealed_ += size;
  idle_ = kind == Event::Kind::data ? 0 : idle_ + 1;
  if (kind == Event::Kind::nothing && idle_ > kPatience) {
    kind = Event::Kind::broken;
    may_be_alerted_ = true;
  }
  const std::size_t data = kind == Event::Kind::data ? content.size() : 0;
  events.push_back({kind, wire_sealed_, data, content.size()});
}

void Peer::seal_data(std::size_t length) {
  if (!established() || length == 0) return;
  std::vector<std::uint8_t> data(std::min(length, tls::kMaxPlaintext));
  for (std::uint8_t &byte : data) byte = byte_at(sealed_data_++, true);
  seal(tls::ContentType::application_data, data, Event::Kind::data);
}

void Peer::seal_empty() { seal(tls::ContentType::application_data, {}, Event::Kind::nothing); }

void Peer::seal_alert(tls::Alert alert) {
  const Event::Kind kind = alert == tls::Alert::close_notify    ? Event::Kind::end
                           : alert == tls::Alert::user_canceled ? Event::Kind::nothing
                                                                : Event::Kind::broken;
  seal(tls::ContentType::alert, tls::encode(alert), kind);
}

void Peer::seal_key_update(bool request) {
  if (!established() || fin_sent || reset_sent) return;
  seal(tls::ContentType::handshake, tls::key_update_message(request), Event::Kind::nothing);
  must(tls::update(send_));
  sealer_ = tls::RecordCipher::make(send_, true);
  must(sealer_ != nullptr);
  if (request) ++requests;
}

void Peer::add_garbage(std::span<const std::uint8_t> bytes) {
  if (fin_sent || reset_sent || bytes.empty()) return;
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  wire_sealed_ += bytes.size();
  cut = may_be_alerted_ = true;
  events.push_back({Event::Kind::unknown, wire_sealed_ - bytes.size() + 1, 0, 1 << 15});
}

void Peer::corrupt(std::size_t place, std::uint8_t with) {
  if (pending_.empty() || with == 0) return;
  place %= pending_.size();
  const std::uint64_t changed = wire_sealed_ - pending_.size() + place;
  if (!changed_.insert(changed).second) return;  // twice the same would be none
  pending_[place] ^= with;
  cut = may_be_alerted_ = true;
  for (Event &event : events) {
    if (event.wire_end <= changed) continue;
    event.kind = Event::Kind::unknown;
    event.length = 0;
    event.plain_length = 1 << 15;
    // A header that promises less is complete earlier than it was.
    event.wire_end = std::min(event.wire_end, changed + 1);
    break;
  }
}

void Peer::send(std::size_t most) {
  if (fin_sent || reset_sent) return;
  const long sent = kernel::send(fd_, pending_.data(), std::min(most, pending_.size()),
                                 MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent <= 0) return;
  pending_.erase(pending_.begin(), pending_.begin() + sent);
  wire_sent += static_cast<std::uint64_t>(sent);
}

void Peer::finish() {
  if (fin_sent || reset_sent) return;
  fin_sent = true;
  kernel::shut_down(fd_, SHUT_WR);
}

void Peer::reset() {
  if (reset_sent) return;
  reset_sent = true;
  const linger at_once{1, 0};
  kernel::set_option(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  kernel::close(fd_);
}

bool Peer::wait(int milliseconds) {
  if (reset_sent) return false;
  pollfd one{fd_, POLLIN, 0};
  return kernel::call(SYS_poll, kernel::word(&one), 1, milliseconds) == 1;
}

void Peer::receive() {
  if (reset_sent || was_reset_) return;
  std::uint8_t buffer[16384];
  for (;;) {
    const long got = kernel::receive(fd_, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got == -EAGAIN) break;
    if (got < 0) {
      was_reset_ = true;
      break;
    }
    if (got == 0) {
      fin_ = true;
      break;
    }
    inbox_.insert(inbox_.end(), buffer, buffer + got);
  }
  if (handshake_ != nullptr) advance_handshake();
  if (established()) take_records();
}

void Peer::advance_handshake() {
  std::size_t consumed = 0;
  std::vector<std::uint8_t> output;
  const auto progress = handshake_->advance(inbox_, consumed, output);
  inbox_.erase(inbox_.begin(), inbox_.begin() + static_cast<std::ptrdiff_t>(consumed));
  if (!fin_sent) {
    pending_.insert(pending_.end(), output.begin(), output.end());
    wire_sealed_ += output.size();
    handshake_end_ = wire_sealed_;
    if (!output.empty()) events.push_back({Event::Kind::nothing, wire_sealed_, 0, 0});
  }
  if (progress == tls::Handshake::Progress::failed) {
    // Only when this end spoiled it, or the program's gave up.
    must(cut || may_end);
    handshake_.reset();
    cut = may_be_alerted_ = true;
  }
  if (progress != tls::Handshake::Progress::finished) return;
  const tls::Established made = handshake_->take_established();
  handshake_.reset();
  begin(made.send, made.receive);
}

void Peer::take_records() {
  for (;;) {
    const auto header = tls::parse_header(inbox_);
    if (!header) {
      must(header.error() == tls::RecordError::incomplete);
      return;
    }
    const std::size_t size = tls::kHeaderLength + header->length;
    if (inbox_.size() < size) return;
    std::vector<std::uint8_t> plain(header->length);
    const auto opened =
        opener_->open(receive_.sequence++, std::span(inbox_).first(size), plain.data());
  must(opened.has_value());
    inbox_.erase(inbox_.begin(), inbox_.begin() + static_cast<std::ptrdiff_t>(size));
    must(!close_notify_ && !alerted_);  // the end is the last
    switch (opened->type) {
      case tls::ContentType::application_data:
        must(opened->length > 0 && received_ + opened->length <= accepted);
        for (std::size_t i = 0; i < opened->length; ++i) {
          must(plain[i] == byte_at(received_++, false));
        }
        break;
      case tls::ContentType::handshake:
        must(post_.consume(std::span(plain).first(opened->length), true) ==
             tls::PostHandshakeEvent::key_update);
        must(tls::update(receive_));
        opener_ = tls::RecordCipher::make(receive_, false);
        ++key_updates_;
        must(key_updates_ <= requests);
        break;
      case tls::ContentType::alert: {
        const auto alert = tls::decode(std::span(plain).first(opened->length));
        must(alert.has_value());
        if (*alert == tls::Alert::close_notify) {
          must(may_end);
          close_notify_ = true;
        } else {
          must(may_be_alerted_);
          alerted_ = true;
        }
        break;
      }
      default:
        must(false);
    }
  }
}

}  // namespace inlay::fuzz
