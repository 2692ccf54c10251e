#include "identity/agent/api_connections.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <utility>

namespace inlay::identity::agent {
namespace {

constexpr int kPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5; not in glibc 2.36's headers

std::optional<std::uint64_t> cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) return std::nullopt;
  return cookie;
}

// The kernel's own answer where it has one: of whoever connected, even if the pid is another's now.
// Before Linux 6.5 the number has to do, soon after the connection was accepted.
policy::UniqueFd process_of(int fd, pid_t pid) {
  int process = -1;
  socklen_t size = sizeof process;
  if (::getsockopt(fd, SOL_SOCKET, kPeerPidfd, &process, &size) == 0) {
    return policy::UniqueFd(process);
  }
  if (errno != ENOPROTOOPT) return policy::UniqueFd();
  return policy::UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

}  // namespace

tl::expected<rpc::StreamCount, std::string_view> ApiConnections::add(
    int fd, const std::shared_ptr<const policy::UniqueFd> &client, const Caller &caller) {
  const auto cookie = cookie_of(fd);
  policy::UniqueFd process = process_of(client->get(), caller.pid);
  if (!cookie || !process) {
    return tl::unexpected<std::string_view>("its process has ended, or no descriptor is left");
  }

  const std::lock_guard lock(mutex_);
  forget_closed();
  std::size_t of_user = 0;
  rpc::StreamCount streams;
  for (const auto &[other, connection] : by_fd_) {
    if (connection->caller.uid != caller.uid) continue;
    ++of_user;
    streams = connection->streams;
  }
  if (of_user >= limit_of_a_user_ || (by_fd_.size() >= limit_ && !make_room(of_user))) {
    return tl::unexpected<std::string_view>("too many connections to the Workload API");
  }
  if (!streams) streams = std::make_shared<std::atomic<std::size_t>>(0);
  by_fd_.insert_or_assign(fd, std::make_shared<const ApiConnection>(ApiConnection{
                                  caller, *cookie, streams, std::move(process), client}));
  return streams;
}

// Users are cheap where one may have thousands (subuid(5)): what all together may have cannot be
// first come, first served. Cookies grow with time. False: it would change only who has the most.
bool ApiConnections::make_room(std::size_t of_newcomer) {
  struct Share {
    std::size_t count = 0;
    int newest = -1;
  };
  std::map<uid_t, Share> shares;
  for (const auto &[fd, connection] : by_fd_) {
    Share &share = shares[connection->caller.uid];
    if (share.count++ == 0 || connection->cookie > by_fd_.at(share.newest)->cookie) {
      share.newest = fd;
    }
  }
  const auto most =
      std::ranges::max_element(shares, {}, [](const auto &share) { return share.second.count; });
  if (most == shares.end() || most->second.count <= of_newcomer + 1) return false;
  const auto loser = by_fd_.find(most->second.newest);
  // The relay sees its end, and closes both of its ends.
  if (const auto client = loser->second->client.lock()) ::shutdown(client->get(), SHUT_RDWR);
  cut_off_(loser->second->caller, "its user has the most connections to the Workload API");
  by_fd_.erase(loser);
  return true;
}

std::shared_ptr<const ApiConnection> ApiConnections::find(std::string_view grpc_peer) const {
  constexpr std::string_view kPrefix = "fd:";
  if (!grpc_peer.starts_with(kPrefix)) return nullptr;
  const char *const end = grpc_peer.data() + grpc_peer.size();
  int fd = -1;
  const auto parsed = std::from_chars(grpc_peer.data() + kPrefix.size(), end, fd);
  if (parsed.ec != std::errc() || parsed.ptr != end) return nullptr;

  const std::lock_guard lock(mutex_);
  const auto found = by_fd_.find(fd);
  if (found == by_fd_.end() || cookie_of(fd) != found->second->cookie) return nullptr;
  return found->second;
}

bool ApiConnections::any_of(uid_t user) {
  const std::lock_guard lock(mutex_);
  forget_closed();
  return std::ranges::any_of(by_fd_,
                             [&](const auto &entry) { return entry.second->caller.uid == user; });
}

// gRPC does not say when it closes a descriptor. Its number then names nothing, or another socket.
void ApiConnections::forget_closed() {
  std::erase_if(by_fd_,
                [](const auto &entry) { return cookie_of(entry.first) != entry.second->cookie; });
}

}  // namespace inlay::identity::agent
