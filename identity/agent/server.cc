#include "identity/agent/server.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>

#include "identity/agent/credentials.h"
#include "identity/agent/spare_descriptors.h"
#include "identity/rpc/monotonic.h"

namespace inlay::identity::agent {
namespace {

using policy::UniqueFd;
using rpc::monotonic_ns;

constexpr std::int64_t kMillisecond = 1'000'000;  // ns
// While the kernel has no memory or descriptors for one more connection.
constexpr std::int64_t kAcceptPause = 50 * kMillisecond;
constexpr int kAcceptsInARow = 64;

// What epoll knows them by; connections are known by their numbers, which begin after these.
constexpr std::uint64_t kListenerTag = 0, kWakeTag = 1, kWatchedTag = 1000,
                        kFirstConnection = 100'000;

bool arm(int epoll, int operation, int fd, std::uint32_t events, std::uint64_t tag) noexcept {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  return epoll_ctl(epoll, operation, fd, &event) == 0;
}

}  // namespace

Server::Server(Listener &listener, Service &service, SeatLimits limits, std::size_t threads,
               Patience patience)
    : listener_(listener),
      service_(service),
      patience_(patience),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      spare_(spare_descriptor()),
      seats_(limits),
      last_id_(kFirstConnection),
      // One more, so that all of them still work where there is one user alone.
      queue_(threads + 1, threads) {
  arm(epoll_.get(), EPOLL_CTL_ADD, listener.fd(), EPOLLIN, kListenerTag);
  arm(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), EPOLLIN, kWakeTag);
}

Server::~Server() {
  for (auto &[id, connection] : connections_) service_.ended(id);
}

void Server::watch(int fd, std::function<void()> handle) {
  watched_[fd] = std::move(handle);
  arm(epoll_.get(), EPOLL_CTL_ADD, fd, EPOLLIN, kWatchedTag + static_cast<std::uint64_t>(fd));
}

void Server::every(std::int64_t milliseconds, std::function<void()> handle) {
  period_ns_ = milliseconds * kMillisecond;
  periodic_ = std::move(handle);
}

void Server::stop() {
  stopping_ = true;
  eventfd_write(wake_.get(), 1);
}

void Server::changed() {
  changed_ = true;
  eventfd_write(wake_.get(), 1);
}

void Server::run() {
  std::array<epoll_event, 128> events;
  if (period_ns_ > 0) period_due_ns_ = monotonic_ns();
  while (!stopping_) {
    const int count =
        epoll_wait(epoll_.get(), events.data(), events.size(), timeout(monotonic_ns()));
    for (int i = 0; i < count; ++i) {
      const std::uint64_t tag = events[static_cast<std::size_t>(i)].data.u64;
      try {
        if (tag == kListenerTag) {
          accept_some();
        } else if (tag == kWakeTag) {
          eventfd_t ignored;
          eventfd_read(wake_.get(), &ignored);
        } else if (tag < kFirstConnection) {
          watched_.at(static_cast<int>(tag - kWatchedTag))();
        } else if (auto found = connections_.find(tag); found != connections_.end()) {
          attend(*found->second, events[static_cast<std::size_t>(i)].events);
        }
      } catch (const std::exception &) {  // bad_alloc
        close(tag);
      }
    }
    take_done();
    try {
      expire(monotonic_ns());
    } catch (const std::exception &) {  // bad_alloc, for the line in the log: it is tried again
    }
  }
  while (!connections_.empty()) close(connections_.begin()->first);
}

void Server::accept_some() {
  for (int i = 0; i < kAcceptsInARow; ++i) {
    UniqueFd fd(accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd) {
      try {
        adopt(std::move(fd));
      } catch (const std::exception &) {  // bad_alloc: this one is closed
        close(last_id_);
      }
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN) return;
    if (errno == EMFILE && accept_without_descriptors()) continue;
    // EMFILE without a spare one, ENFILE, ENOBUFS, ENOMEM: to be waited out.
    accept_again_ns_ = monotonic_ns() + kAcceptPause;
    arm(epoll_.get(), EPOLL_CTL_MOD, listener_.fd(), 0, kListenerTag);
    return;
  }
}

// Who has waited longest makes room, and as many more as it takes for the newcomer to be attested;
// where nobody waits, the newcomer is sent away by the descriptor kept for that, so that the
// backlog does not fill with the hopeless. False: another thread took that one.
bool Server::accept_without_descriptors() {
  bool made_room = false;
  while (auto oldest = seats_.oldest_waiting()) {
    auto found = connections_.find(*oldest);
    service_.cut_off(found->second->peer, AgentRefusal::rate_limited, "no descriptor is left");
    close(*oldest);
    made_room = true;
    if (is_room_for_a_newcomer()) break;
  }
  if (made_room) return true;
  spare_ = UniqueFd();
  UniqueFd fd(accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (auto peer = fd ? peer_of(fd.get()) : std::nullopt) {
    service_.cut_off(*peer, AgentRefusal::rate_limited, "no descriptor is left");
  }
  const bool accepted = static_cast<bool>(fd);
  fd = UniqueFd();
  spare_ = spare_descriptor();
  return accepted;
}

void Server::adopt(UniqueFd fd) {
  auto peer = peer_of(fd.get());
  if (!peer) return;
  auto connection = std::make_unique<Connection>();
  connection->id = ++last_id_;
  connection->fd = std::move(fd);
  connection->peer = *peer;
  connection->events = EPOLLIN;
  Connection &kept = *connections_.emplace(last_id_, std::move(connection)).first->second;
  if (!arm(epoll_.get(), EPOLL_CTL_ADD, kept.fd.get(), kept.events, kept.id)) {
    connections_.erase(kept.id);
    return;
  }
  set_deadline(kept, monotonic_ns() + patience_.frame.count());
  if (auto surplus = seats_.come(kept.id, kept.peer.uid)) {
    auto found = connections_.find(*surplus);
    service_.cut_off(found->second->peer, AgentRefusal::rate_limited,
                     "too many connections that have not attached");
    close(*surplus);
  }
}

void Server::attend(Connection &connection, std::uint32_t events) {
  if ((events & EPOLLOUT) != 0 && !write(connection)) return;
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return settle(connection);
  if (connection.busy || !connection.out.empty()) {
    // It has hung up; nobody takes the answer.
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) return close(connection.id);
    return settle(connection);
  }
  if (!connection.sniffed && !sniff(connection)) return;
  read(connection);
}

// False when the connection is gone, or has sent nothing yet.
bool Server::sniff(Connection &connection) {
  char first = 0;
  const ssize_t got = recv(connection.fd.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got <= 0) {
    close(connection.id);
    return false;
  }
  if (first == static_cast<char>(kAgentMagic & 0xff)) return connection.sniffed = true;
  if (first != 'P') {
    cut(connection, AgentRefusal::malformed, "not of the protocol");
    return false;
  }
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.fd.get(), nullptr);
  service_.adopt(std::move(connection.fd), connection.peer);
  close(connection.id);
  return false;
}

void Server::read(Connection &connection) {
  const bool began = connection.reader.in_the_middle();
  IncomingFrame frame;
  switch (connection.reader.read(connection.fd.get(), &frame)) {
    case FrameReader::Got::nothing:
      if (!began && connection.reader.in_the_middle())
        set_deadline(connection, monotonic_ns() + patience_.frame.count());
      return settle(connection);
    case FrameReader::Got::end:
      return close(connection.id);
    case FrameReader::Got::broken:
      return cut(connection, AgentRefusal::malformed, connection.reader.complaint());
    case FrameReader::Got::frame:
      return ask(connection, std::move(frame));
  }
}

void Server::ask(Connection &connection, IncomingFrame frame) {
  set_deadline(connection, 0);
  const uid_t user = frame.writer ? frame.writer->uid : connection.peer.uid;
  const std::uint32_t number = frame.header.request;
  // std::function wants to copy what it holds.
  auto request = std::make_shared<Request>(Request{connection.id, std::move(frame)});
  give(connection, user, number, [this, request](Done &done) {
    done.reply = service_.answer(std::move(*request));
    done.end = false;
  });
}

// What a job leaves has its place before it begins: later there may be no memory for it.
void Server::give(Connection &connection, uid_t user, std::uint32_t request,
                  std::function<void(Done &)> job) {
  auto place = std::make_shared<std::list<Done>>(1);
  place->front().connection = connection.id;
  place->front().request = request;
  place->front().end = true;
  queue_.give(user, [this, place, job = std::move(job)] {
    Done &what = place->front();
    try {
      job(what);
    } catch (const std::exception &) {  // bad_alloc: the connection is closed
      what.reply.reset();
      what.end = true;
    }
    {
      std::lock_guard lock(mutex_);
      done_.splice(done_.end(), *place);
    }
    eventfd_write(wake_.get(), 1);
  });
  connection.busy = true;
  settle(connection);
}

void Server::ask_for_news(Connection &connection) {
  if (connection.busy || !connection.out.empty()) {
    connection.news_due = true;
    return;
  }
  connection.news_due = false;
  give(connection, connection.peer.uid, 0, [this, id = connection.id](Done &done) {
    Service::News news = service_.news(id);
    done.reply = std::move(news.reply);
    done.end = news.end;
  });
}

void Server::take_done() {
  std::list<Done> all;
  {
    std::lock_guard lock(mutex_);
    all.swap(done_);
  }
  for (Done &what : all) {
    auto found = connections_.find(what.connection);
    if (found == connections_.end()) {
      service_.ended(what.connection);  // it may have been attached after it was closed
      continue;
    }
    found->second->busy = false;
    try {
      take(*found->second, std::move(what));
    } catch (const std::exception &) {  // bad_alloc
      close(what.connection);
    }
  }
  if (!changed_.exchange(false)) return;
  for (auto each = connections_.begin(); each != connections_.end();) {
    const auto one = each++;
    try {
      if (one->second->attached) ask_for_news(*one->second);
    } catch (const std::exception &) {  // bad_alloc: it comes back, and gets everything then
      close(one->first);
    }
  }
}

void Server::take(Connection &connection, Done what) {
  if (what.end) {
    close(connection.id);
  } else if (what.reply) {
    if (what.reply->attached && !connection.attached) {
      const Seats::Attached seat = seats_.attach(connection.id);
      connection.attached = seat.taken;
      if (!seat.taken) *what.reply = service_.not_attached(connection.id);
      if (seat.surplus) {
        cut(*connections_.at(*seat.surplus), AgentRefusal::rate_limited,
            "its user has the most processes attached");
      }
      // What changed while it was attached was not told to it yet.
      connection.news_due = connection.attached;
    }
    send(connection, what.request, std::move(*what.reply));
  } else if (connection.news_due) {
    ask_for_news(connection);
  } else {
    settle(connection);
  }
}

void Server::send(Connection &connection, std::uint32_t request, Reply reply) {
  AgentHeader header;
  header.frame = reply.frame;
  header.length = static_cast<std::uint32_t>(reply.bytes.size());
  header.request = request;
  connection.out.assign(reinterpret_cast<const char *>(&header), sizeof header);
  connection.out += reply.bytes;
  connection.sent = 0;
  connection.out_fd = std::move(reply.fd);
  set_deadline(connection, monotonic_ns() + patience_.frame.count());
  if (write(connection)) settle(connection);
}

// False when the connection is gone.
bool Server::write(Connection &connection) {
  while (!connection.out.empty()) {
    iovec part{connection.out.data() + connection.sent, connection.out.size() - connection.sent};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (connection.out_fd) {
      header.msg_control = control;
      header.msg_controllen = sizeof control;
      cmsghdr *item = CMSG_FIRSTHDR(&header);
      item->cmsg_level = SOL_SOCKET;
      item->cmsg_type = SCM_RIGHTS;
      item->cmsg_len = CMSG_LEN(sizeof(int));
      const int fd = connection.out_fd.get();
      std::memcpy(CMSG_DATA(item), &fd, sizeof fd);
    }
    const ssize_t sent = sendmsg(connection.fd.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return true;
    if (sent < 0) {
      close(connection.id);
      return false;
    }
    connection.out_fd = UniqueFd();
    connection.sent += static_cast<std::size_t>(sent);
    if (connection.sent == connection.out.size()) {
      connection.out = std::string();
      set_deadline(connection,
                   connection.attached ? 0 : monotonic_ns() + patience_.silence.count());
    }
  }
  if (connection.news_due && !connection.busy) ask_for_news(connection);
  return true;
}

// What epoll shall tell of it: nothing to read while it is answered. A hangup always.
void Server::settle(Connection &connection) {
  std::uint32_t events = 0;
  if (!connection.out.empty()) {
    events = EPOLLOUT;
  } else if (!connection.busy) {
    events = EPOLLIN;
  }
  if (events == connection.events) return;
  connection.events = events;
  arm(epoll_.get(), EPOLL_CTL_MOD, connection.fd.get(), events, connection.id);
}

void Server::cut(Connection &connection, AgentRefusal refusal, std::string_view why) {
  service_.cut_off(connection.peer, refusal, why);
  close(connection.id);
}

void Server::close(std::uint64_t id) {
  auto found = connections_.find(id);
  if (found == connections_.end()) return;
  set_deadline(*found->second, 0);
  const bool busy = found->second->busy;
  seats_.leave(id);
  connections_.erase(found);
  if (!busy) service_.ended(id);  // else when its answer is there
}

void Server::set_deadline(Connection &connection, std::int64_t at_ns) {
  if (connection.deadline_ns != 0) deadlines_.erase({connection.deadline_ns, connection.id});
  connection.deadline_ns = at_ns;
  if (at_ns != 0) deadlines_.insert({at_ns, connection.id});
}

void Server::expire(std::int64_t now_ns) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_ns) {
    Connection &connection = *connections_.at(deadlines_.begin()->second);
    if (!connection.out.empty()) {
      cut(connection, AgentRefusal::malformed, "it does not take its answer");
    } else if (connection.reader.in_the_middle() || !connection.sniffed) {
      cut(connection, AgentRefusal::malformed,
          fmt::format("no whole request within {} s", patience_.frame / std::chrono::seconds(1)));
    } else {
      close(connection.id);
    }
  }
  if (accept_again_ns_ != 0 && accept_again_ns_ <= now_ns) {
    accept_again_ns_ = 0;
    arm(epoll_.get(), EPOLL_CTL_MOD, listener_.fd(), EPOLLIN, kListenerTag);
  }
  if (period_due_ns_ != 0 && period_due_ns_ <= now_ns) {
    period_due_ns_ = now_ns + period_ns_;
    periodic_();
  }
}

int Server::timeout(std::int64_t now_ns) const {
  std::int64_t next = deadlines_.empty() ? 0 : deadlines_.begin()->first;
  for (std::int64_t other : {accept_again_ns_, period_due_ns_}) {
    if (other != 0 && (next == 0 || other < next)) next = other;
  }
  if (next == 0) return -1;
  const std::int64_t left = (next - now_ns + kMillisecond - 1) / kMillisecond;
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

}  // namespace inlay::identity::agent
