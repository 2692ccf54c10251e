#include "identity/agent/api_relay.h"

#include <openssl/crypto.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kBuffer = 64 * 1024;

void cleanse(std::string &bytes) {
  OPENSSL_cleanse(bytes.data(), bytes.size());
  bytes.clear();
  bytes.shrink_to_fit();
}

}  // namespace

ApiRelay::Pair::~Pair() {
  cleanse(to_server);
  cleanse(to_client);
}

ApiRelay::ApiRelay(CutOff cut_off)
    : cut_off_(std::move(cut_off)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  epoll_event event{EPOLLIN, {.ptr = nullptr}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
}

ApiRelay::~ApiRelay() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

bool ApiRelay::add(std::shared_ptr<const policy::UniqueFd> client, policy::UniqueFd server,
                   const Caller &caller, std::unique_ptr<rpc::Http2Police> police) {
  auto pair = std::make_unique<Pair>();
  pair->client = std::move(client);
  pair->server = std::move(server);
  pair->caller = caller;
  pair->police = std::move(police);
  const std::lock_guard lock(mutex_);
  if (!epoll_ || !wake_) return false;
  if (!thread_.joinable()) try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error &) {
      return false;
    }
  fresh_.push_back(std::move(pair));
  ::eventfd_write(wake_.get(), 1);
  return true;
}

// Both ends are watched edge-triggered: an event is a reason to look at both directions, and each
// look goes on until the kernel has nothing more or takes nothing more.
void ApiRelay::watch(Pair &pair) {
  epoll_event event{EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = &pair}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, pair.client->get(), &event);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, pair.server.get(), &event);
}

void ApiRelay::run() {
  buffer_ = std::make_unique<char[]>(kBuffer);
  std::array<epoll_event, 64> events;
  for (;;) {
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    std::vector<std::unique_ptr<Pair>> fresh;
    {
      const std::lock_guard lock(mutex_);
      if (ending_) return;
      eventfd_t ignored = 0;
      ::eventfd_read(wake_.get(), &ignored);
      fresh.swap(fresh_);
    }
    for (auto &pair : fresh) {
      watch(*pair);  // an event follows: it can be written to
      pairs_.emplace(pair.get(), std::move(pair));
    }
    for (int at = 0; at < count; ++at) {
      auto *const pair = static_cast<Pair *>(events[static_cast<std::size_t>(at)].data.ptr);
      // The second event of a pair that ended with the first finds it gone.
      const auto found = pairs_.find(pair);
      if (found != pairs_.end() && !pass(*pair)) pairs_.erase(found);
    }
  }
}

bool ApiRelay::pass(Pair &pair) {
  if (!pass(pair, pair.client->get(), pair.server.get(), pair.to_server, true)) return false;
  if (!pair.server_ended &&
      !pass(pair, pair.server.get(), pair.client->get(), pair.to_client, false)) {
    pair.server_ended = true;  // what gRPC said last is still to be delivered
  }
  if (!pair.server_ended) return true;
  return !pair.to_client.empty() && pass(pair, -1, pair.client->get(), pair.to_client, false);
}

// False when `from` has ended, `to` is gone, or the police says so.
bool ApiRelay::pass(Pair &pair, int from, int to, std::string &waiting, bool from_client) {
  for (;;) {
    while (!waiting.empty()) {
      const ssize_t sent = ::send(to, waiting.data(), waiting.size(), MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      OPENSSL_cleanse(waiting.data(), static_cast<std::size_t>(sent));
      waiting.erase(0, static_cast<std::size_t>(sent));
    }
    if (from < 0) return false;
    const ssize_t got = ::recv(from, buffer_.get(), kBuffer, 0);
    if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR);
    const std::span<const char> bytes(buffer_.get(), static_cast<std::size_t>(got));
    const bool good =
        from_client ? pair.police->from_client(bytes) : pair.police->from_server(bytes);
    if (!good) {
      cut_off_(pair.caller, "more streams or bytes than a client of the Workload API needs");
      return false;
    }
    waiting.assign(bytes.begin(), bytes.end());
    OPENSSL_cleanse(buffer_.get(), bytes.size());
  }
}

}  // namespace inlay::identity::agent
