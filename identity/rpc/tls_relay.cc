#include "identity/rpc/tls_relay.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <system_error>
#include <utility>

#include "identity/rpc/monotonic.h"

namespace inlay::identity::rpc {
namespace {

constexpr std::size_t kBuffer = 16 * 1024;  // a record's data
constexpr int kTurns = 32;                  // buffers moved before others have their turn

void cleanse(std::string &bytes) {
  OPENSSL_cleanse(bytes.data(), bytes.size());
  bytes.clear();
}

bool would_block(int error) {
  return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

}  // namespace

std::int64_t monotonic_ms() { return monotonic_ns() / 1'000'000; }

TlsRelay::Connection::~Connection() {
  cleanse(to_plain);
  cleanse(to_network);
}

TlsRelay::TlsRelay()
    : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  epoll_event event{EPOLLIN, {.ptr = nullptr}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
}

TlsRelay::~TlsRelay() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

bool TlsRelay::add(std::unique_ptr<Connection> connection) {
  const std::lock_guard lock(mutex_);
  if (!epoll_ || !wake_) return false;
  if (!thread_.joinable()) try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error &) {
      return false;
    }
  fresh_.push_back(std::move(connection));
  ::eventfd_write(wake_.get(), 1);
  return true;
}

// Edge-triggered, as api_relay.cc in identity/agent: an event is a reason to look at both
// directions, and each look goes on until the kernel has nothing more or takes nothing more.
bool TlsRelay::take_fresh() {
  std::vector<std::unique_ptr<Connection>> fresh;
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return false;
    eventfd_t ignored = 0;
    ::eventfd_read(wake_.get(), &ignored);
    fresh.swap(fresh_);
  }
  for (auto &connection : fresh) {
    Connection *const key = connection.get();
    epoll_event event{EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = key}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, key->network.get(), &event) != 0) continue;
    if (key->plain && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, key->plain.get(), &event) != 0) {
      continue;
    }
    connections_.emplace(key, std::move(connection));
    unfinished_.push_back(key);
  }
  return true;
}

int TlsRelay::until_deadline() const {
  if (!unfinished_.empty()) return 0;
  std::int64_t first = -1;
  for (const auto &[key, connection] : connections_) {
    if (connection->plain) continue;
    if (first < 0 || connection->deadline < first) first = connection->deadline;
  }
  if (first < 0) return -1;
  return static_cast<int>(std::clamp<std::int64_t>(first - monotonic_ms(), 0, 60'000) + 1);
}

void TlsRelay::drop_late() {
  const std::int64_t now = monotonic_ms();
  std::erase_if(connections_, [&](const auto &entry) {
    const Connection &connection = *entry.second;
    if (connection.plain || connection.deadline > now) return false;
    if (connection.failed) connection.failed(connection, "it did not finish the handshake in time");
    return true;
  });
}

void TlsRelay::run() {
  // OpenSSL writes with write(): a connection that is gone must be an error, not a signal.
  sigset_t all;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  buffer_ = std::make_unique<char[]>(kBuffer);
  std::array<epoll_event, 64> events;
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                   until_deadline());
    std::vector<Connection *> ready = std::exchange(unfinished_, {});
    for (int at = 0; at < count; ++at) {
      ready.push_back(static_cast<Connection *>(events[static_cast<std::size_t>(at)].data.ptr));
    }
    std::sort(ready.begin(), ready.end());
    ready.erase(std::unique(ready.begin(), ready.end()), ready.end());
    for (Connection *connection : ready) {
      const auto found = connections_.find(connection);
      if (found == connections_.end()) continue;  // the wake-up, or dropped meanwhile
      const Outcome outcome = move(*connection);
      if (outcome == Outcome::over) connections_.erase(found);
      if (outcome == Outcome::goes_on) unfinished_.push_back(connection);
    }
    if (!take_fresh()) return;
    drop_late();
  }
}

TlsRelay::Outcome TlsRelay::move(Connection &connection) {
  if (!connection.plain) {
    const Outcome outcome = shake(connection);
    if (outcome != Outcome::goes_on) return outcome;
  }
  const Outcome in = inward(connection);
  if (in == Outcome::over) return in;
  const Outcome out = outward(connection);
  if (out == Outcome::over) return out;
  return in == Outcome::goes_on ? in : out;
}

TlsRelay::Outcome TlsRelay::shake(Connection &connection) {
  ERR_clear_error();
  const int result = SSL_do_handshake(connection.ssl.get());
  if (result != 1) {
    const int error = SSL_get_error(connection.ssl.get(), result);
    if (would_block(error)) return Outcome::waits;
    // Who has said nothing only looked whether somebody listens, as a balancer does every second.
    const bool silent = BIO_number_read(SSL_get_rbio(connection.ssl.get())) == 0;
    if (connection.failed && !silent) connection.failed(connection, tls_error(error));
    return Outcome::over;
  }
  connection.plain = connection.established(connection);
  epoll_event event{EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = &connection}};
  const bool good = connection.plain &&
                    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection.plain.get(), &event) == 0;
  return good ? Outcome::goes_on : Outcome::over;
}

TlsRelay::Outcome TlsRelay::inward(Connection &connection) {
  for (int turn = 0; turn < kTurns; ++turn) {
    std::string &waiting = connection.to_plain;
    while (!waiting.empty()) {
      const ssize_t sent =
          ::send(connection.plain.get(), waiting.data(), waiting.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno == EAGAIN || errno == EINTR) return Outcome::waits;
        connection.plain_ended = true;  // what gRPC said last is still to be delivered
        cleanse(waiting);
        return Outcome::waits;
      }
      OPENSSL_cleanse(waiting.data(), static_cast<std::size_t>(sent));
      waiting.erase(0, static_cast<std::size_t>(sent));
    }
    if (connection.plain_ended) return Outcome::waits;
    ERR_clear_error();
    const int got = SSL_read(connection.ssl.get(), buffer_.get(), static_cast<int>(kBuffer));
    if (got <= 0) {
      const int error = SSL_get_error(connection.ssl.get(), got);
      ERR_clear_error();
      return would_block(error) ? Outcome::waits : Outcome::over;
    }
    const std::span<const char> bytes(buffer_.get(), static_cast<std::size_t>(got));
    if (connection.police && !connection.police->from_client(bytes)) return Outcome::over;
    waiting.assign(bytes.begin(), bytes.end());
    OPENSSL_cleanse(buffer_.get(), bytes.size());
  }
  return Outcome::goes_on;
}

TlsRelay::Outcome TlsRelay::outward(Connection &connection) {
  for (int turn = 0; turn < kTurns; ++turn) {
    std::string &waiting = connection.to_network;
    while (!waiting.empty()) {
      ERR_clear_error();
      const int sent =
          SSL_write(connection.ssl.get(), waiting.data(), static_cast<int>(waiting.size()));
      if (sent <= 0) {
        const int error = SSL_get_error(connection.ssl.get(), sent);
        ERR_clear_error();
        return would_block(error) ? Outcome::waits : Outcome::over;
      }
      OPENSSL_cleanse(waiting.data(), static_cast<std::size_t>(sent));
      waiting.erase(0, static_cast<std::size_t>(sent));
    }
    const ssize_t got = ::recv(connection.plain.get(), buffer_.get(), kBuffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Outcome::waits;
    if (got <= 0) {
      SSL_shutdown(connection.ssl.get());  // close_notify: nothing was cut off
      ERR_clear_error();
      return Outcome::over;
    }
    const std::span<const char> bytes(buffer_.get(), static_cast<std::size_t>(got));
    if (connection.police && !connection.police->from_server(bytes)) return Outcome::over;
    waiting.assign(bytes.begin(), bytes.end());
    OPENSSL_cleanse(buffer_.get(), bytes.size());
  }
  return Outcome::goes_on;
}

}  // namespace inlay::identity::rpc
