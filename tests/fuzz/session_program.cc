#include "session_program.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "input.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"

namespace inlay::fuzz {
namespace {

namespace kernel = shim::kernel;
using shim::State;

constexpr std::size_t kQueueLimit = 60'000;
constexpr std::uint8_t kUntouched = 0xee;
constexpr int kErrnoBefore = 77;
constexpr std::uint8_t kTcpEstablished = 1, kTcpClose = 7, kTcpCloseWait = 8;

std::uint8_t g_buffer[256 * 1024];

tcp_info info_of(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  must(kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
  return info;
}

// Cuts [bytes, bytes + length) into up to four parts.
std::vector<iovec> parts_of(std::uint8_t *bytes, std::size_t length) {
  std::vector<iovec> parts;
  std::size_t piece = length / 3 + 1;
  for (std::size_t at = 0; at < length; at += piece) {
    parts.push_back({bytes + at, std::min(piece, length - at)});
  }
  parts.push_back({bytes, 0});
  return parts;
}

}  // namespace

Program::Program(const Connection &connection, Peer &peer)
    : connection_(connection), peer_(peer), numbers_{connection.program} {}

Program::~Program() { must(closed()); }

bool Program::established() const { return connection_.slot->state.load() == State::established; }

bool Program::waiting() const { return connection_.slot->state.load() == State::waiting; }

int Program::tcp_state() const { return info_of(number()).tcpi_state; }

void Program::settle() {
  if (closed()) return;
  // Of 127.0.0.1 this is done when the peer's call returns, or soon.
  for (long looks = 0;; ++looks) {
    const tcp_info info = info_of(number());
    const std::uint64_t whole = peer_.wire_sent + (peer_.fin_sent ? 1 : 0);
    if (info.tcpi_state == kTcpClose || (!peer_.reset_sent && info.tcpi_bytes_received >= whole)) {
      delivered_ = std::min<std::uint64_t>(info.tcpi_bytes_received, peer_.wire_sent);
      fin_delivered_ = peer_.fin_sent && info.tcpi_bytes_received >= whole;
      return;
    }
    must(looks < 10'000'000);
    ::sched_yield();
  }
}

std::size_t Program::peer_room() const {
  if (closed()) return kQueueLimit;
  int queued = 0;
  kernel::call(SYS_ioctl, number(), FIONREAD, kernel::word(&queued));
  return kQueueLimit - std::min<std::size_t>(kQueueLimit, static_cast<std::size_t>(queued));
}

Ahead Program::ahead() const {
  Ahead found;
  std::size_t taken = taken_;
  bool partial = delivered_ > 0;
  for (const Event &event : peer_.events) {
    if (event.wire_end > delivered_) break;
    partial = event.wire_end < delivered_;
    if (found.end == Ahead::End::none) found.data += event.length - taken;
    found.by_headers += event.plain_length - taken;
    taken = 0;
    if (found.end != Ahead::End::none) continue;
    if (event.kind == Event::Kind::end) found.end = Ahead::End::end;
    if (event.kind == Event::Kind::broken) found.end = Ahead::End::broken;
    if (event.kind == Event::Kind::unknown) found.end = Ahead::End::unknown;
  }
  if (peer_.events.empty()) partial = true;  // what was dropped, and maybe more
  if (partial) ++found.by_headers;
  if (found.end == Ahead::End::none && fin_delivered_) {
    found.end = shut_read_ ? Ahead::End::end : Ahead::End::broken;
  } else if (found.end == Ahead::End::none && peer_.reset_sent) {
    found.end = Ahead::End::reset;
  }
  return found;
}

void Program::consume(std::size_t length) {
  while (length > 0) {
    Event &event = peer_.events.front();
    const std::size_t step = std::min(length, event.length - taken_);
    taken_ += step;
    length -= step;
    if (taken_ < event.length) return;
    taken_ = 0;
    peer_.events.pop_front();
  }
}

bool Program::spoken_after_end() const {
  for (const Event &event : peer_.events) {
    if (event.kind == Event::Kind::end) return shut_write_ && peer_.wire_sent > event.wire_end;
  }
  return false;
}

void Program::reset_reported() {
  must(!reported_);
  reported_ = true;
}

void Program::receive(std::size_t room, ReadBy by, int flags) {
  if (closed()) return;
  room = std::min(room, sizeof g_buffer - 8);
  std::memset(g_buffer, kUntouched, room + 8);
  flags = by == ReadBy::read || by == ReadBy::readv ? 0 : flags;
  if (by == ReadBy::read && room == 0) return;
  std::vector<iovec> parts = parts_of(g_buffer, room);
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  const int fd = number();
  errno = kErrnoBefore;
  long got = -1;
  switch (by) {
    case ReadBy::recv:
      got = ::recv(fd, g_buffer, room, flags);
      break;
    case ReadBy::read:
      got = ::read(fd, g_buffer, room);
      break;
    case ReadBy::readv:
      if (room == 0) return;
      got = ::readv(fd, parts.data(), static_cast<int>(parts.size()));
      break;
    case ReadBy::recvmsg:
      got = ::recvmsg(fd, &message, flags);
      break;
  }
  const int error = errno;
  must(got < 0 || error == kErrnoBefore);
  for (std::size_t i = room; i < room + 8; ++i) must(g_buffer[i] == kUntouched);
  check_received(got, got < 0 ? error : 0, room, flags, g_buffer);
}

void Program::check_received(long got, int error, std::size_t room, int flags,
                             const std::uint8_t *bytes) {
  const Ahead found = ahead();
  if (got < 0) must(error == EAGAIN || error == ECONNRESET);
  const bool blocked = got < 0 && error == EAGAIN;
  const bool failed = got < 0 && error == ECONNRESET;
  if (failed) {
    const bool unfinished = peer_.cut || peer_.fin_sent || peer_.reset_sent;
    const bool ended_by_us = shut_read_ && shut_write_;
    must(found.end == Ahead::End::broken || found.end == Ahead::End::reset ||
         found.end == Ahead::End::unknown || (!established() && unfinished) || ended_by_us);
    must(found.data == 0 || !connection_.slot->bytes_in.load());
    reset_reported();
    return;
  }
  const State state = connection_.slot->state.load();
  if (state != State::established && state != State::failed) {
    const bool over = shut_read_ || reported_ || (peer_.fin_sent && peer_.reset_sent);
    must(blocked || (got == 0 && over));
    return;
  }
  if (found.data > 0 && !(shut_read_ && shut_write_)) {
    const std::size_t most = std::min(room, found.data);
    must(got >= 0 && static_cast<std::size_t>(got) <= most);
    must((flags & MSG_PEEK) != 0 ? got > 0 || room == 0 : static_cast<std::size_t>(got) == most);
  }
  if (got > 0) {
    must(static_cast<std::size_t>(got) <= found.data);
    for (long i = 0; i < got && (flags & MSG_TRUNC) == 0; ++i) {
      must(bytes[i] == byte_at(place_ + static_cast<std::uint64_t>(i), true));
    }
    if ((flags & MSG_PEEK) != 0) return;
    place_ += static_cast<std::uint64_t>(got);
    consume(static_cast<std::size_t>(got));
    return;
  }
  if (found.data > 0) return;
  if (blocked) {
    must(!shut_read_);
    must(found.end == Ahead::End::none || found.end == Ahead::End::unknown);
    must(!fin_delivered_ && !peer_.reset_sent);
    // Or a loop that waits for readiness would spin.
    pollfd one{number(), POLLIN, 0};
    must(kernel::call(SYS_poll, kernel::word(&one), 1, 0) == 0);
  } else {
    must(found.end == Ahead::End::end || reported_ || shut_read_);
  }
}

void Program::send(std::size_t length, WriteBy by, int flags) {
  if (closed()) return;
  length = std::min(length, sizeof g_buffer);
  for (std::size_t i = 0; i < length; ++i) g_buffer[i] = byte_at(peer_.accepted + i, false);
  flags = by == WriteBy::write || by == WriteBy::writev ? 0 : flags | MSG_NOSIGNAL;
  std::vector<iovec> parts = parts_of(g_buffer, length);
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  const int fd = number();
  errno = kErrnoBefore;
  long sent = -1;
  switch (by) {
    case WriteBy::send:
      sent = ::send(fd, g_buffer, length, flags);
      break;
    case WriteBy::write:
      sent = ::write(fd, g_buffer, length);
      break;
    case WriteBy::writev:
      sent = ::writev(fd, parts.data(), static_cast<int>(parts.size()));
      break;
    case WriteBy::sendmsg:
      sent = ::sendmsg(fd, &message, flags);
      break;
  }
  const int error = errno;
  must(sent < 0 || error == kErrnoBefore);
  check_sent(sent, sent < 0 ? error : 0, length);
}

void Program::check_sent(long sent, int error, std::size_t length) {
  const Ahead found = ahead();
  const bool wrong = found.end == Ahead::End::broken || found.end == Ahead::End::unknown ||
                     found.end == Ahead::End::reset || peer_.cut || peer_.reset_sent ||
                     (!established() && peer_.fin_sent);
  if (sent >= 0) {
    must(static_cast<std::size_t>(sent) <= length && (sent > 0 || length == 0));
    must(!shut_write_ || length == 0);
    must(!(peer_.reset_sent && established()) || length == 0);
    peer_.accepted += static_cast<std::uint64_t>(sent);
    return;
  }
  if (error == EPIPE) {
    must(shut_write_ || (wrong && (reported_ || fin_delivered_)));
  } else if (error == ECONNRESET) {
    must(wrong);
    reset_reported();
  } else {
    must(error == EAGAIN && length > 0 && !shut_write_);
    // What is under way is all that may be in the way.
    must(peer_.accepted > peer_.received());
  }
}

void Program::ask_available() {
  if (closed()) return;
  const Ahead found = ahead();
  int available = -1;
  must(::ioctl(number(), FIONREAD, &available) == 0 && available >= 0);
  if (!established()) return;
  const auto answer = static_cast<std::size_t>(available);
  must(found.data == 0 ? answer == 0 : answer >= found.data && answer <= found.by_headers);
}

void Program::ask_readiness() {
  if (closed()) return;
  const Ahead found = ahead();
  pollfd one{number(), POLLIN | POLLOUT, 0};
  must(::poll(&one, 1, 0) >= 0);
  if (found.data > 0 || (found.end != Ahead::End::none && found.end != Ahead::End::unknown)) {
    must(!established() || low_water_ > 1 || (one.revents & POLLIN) != 0);
  }
}

void Program::ask_error() {
  if (closed()) return;
  int error = -1;
  socklen_t length = sizeof error;
  must(::getsockopt(number(), SOL_SOCKET, SO_ERROR, &error, &length) == 0);
  if (error == 0) return;
  must(error == ECONNRESET || (error == EPIPE && fin_delivered_));
  must(peer_.cut || peer_.fin_sent || peer_.reset_sent || (shut_read_ && shut_write_) ||
       spoken_after_end() || ahead().end == Ahead::End::broken);
  reset_reported();
}

void Program::set_flag(int level, int name, int value) {
  if (closed()) return;
  must(::setsockopt(number(), level, name, &value, sizeof value) == 0);
  if (level == SOL_SOCKET && name == SO_RCVLOWAT) low_water_ = value;
}

void Program::linger_zero() {
  if (closed()) return;
  const linger at_once{1, 0};
  must(::setsockopt(number(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
  lingers_zero_ = true;
}

void Program::duplicate() {
  if (closed() || numbers_.size() > 3) return;
  const int copy = ::dup(number());
  must(copy >= 0 && shim::managed(copy) == shim::managed(number()));
  numbers_.push_back(copy);
}

void Program::shut(int how) {
  if (closed()) return;
  const int before = tcp_state();
  if (how != SHUT_RD) peer_.may_end = true;
  const int result = ::shutdown(number(), how);
  must(result == 0 || errno == ENOTCONN);
  if (before == kTcpEstablished || before == kTcpCloseWait) {
    // A session that failed has ended both ways already.
    must(result == 0 || connection_.slot->state.load() == State::failed);
  } else if (before == kTcpClose) {
    must(result != 0);
  }
  if (result != 0) return;
  if (how != SHUT_WR) shut_read_ = true;
  if (how != SHUT_RD) shut_write_ = true;
}

void Program::close_one(std::size_t which) {
  if (closed()) return;
  const auto at = numbers_.begin() + static_cast<std::ptrdiff_t>(which % numbers_.size());
  const int fd = *at;
  if (numbers_.size() == 1) {
    const Ahead found = ahead();
    // Of what follows a close_notify nothing is read.
    bool all_read = found.data == 0 && delivered_ == peer_.wire_sent;
    for (const Event &event : peer_.events) {
      all_read = all_read && event.wire_end <= delivered_;
      if (event.kind == Event::Kind::end) all_read = all_read && event.wire_end == delivered_;
    }
    orderly_ = healthy() && all_read && !lingers_zero_ && !waiting();
    peer_.may_end = true;
  }
  numbers_.erase(at);
  must(::close(fd) == 0);
  must(shim::managed(fd) == nullptr);
}

bool Program::healthy() {
  const Ahead found = ahead();
  return !reported_ && (established() || !peer_.fin_sent) && !peer_.cut && !peer_.reset_sent &&
         connection_.slot->state != State::failed &&
         (found.end == Ahead::End::none || found.end == Ahead::End::end) &&
         !(((shut_read_ && shut_write_) || spoken_after_end()) && tcp_state() == kTcpClose);
}

bool Program::read_all() {
  for (;;) {
    const std::uint64_t before = place_;
    receive(100'000, ReadBy::recv, 0);
    if (place_ == before) return !reported_;
  }
}

}  // namespace inlay::fuzz
