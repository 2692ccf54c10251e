#include "identity/agent_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "identity/certificate.h"
#include "identity/user_namespace.h"

namespace inlay::identity {
namespace {

using Clock = std::chrono::steady_clock;

tl::unexpected<AgentFailure> failure(AgentFailureKind kind, std::string message) {
  return tl::unexpected(AgentFailure{kind, {}, std::move(message)});
}

std::string reason(int error) {
  const char *const text = strerrordesc_np(error);
  return text != nullptr ? text : fmt::format("error {}", error);
}

bool is_trusted(uid_t uid) { return uid == 0 || (uid == geteuid() && !may_be_anybody(uid)); }

// Who could put another socket in place of this one. "" when nobody but root and this user.
std::string path_complaint(const std::string &path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return reason(errno);
  if (S_ISLNK(status.st_mode)) return "is a symbolic link; name the socket itself";
  if (!S_ISSOCK(status.st_mode)) return "is no socket";
  if (!is_trusted(status.st_uid)) {
    return fmt::format("belongs to uid {}, neither to root nor to uid {}", status.st_uid,
                       geteuid());
  }
  const std::string folder = path.substr(0, std::max<std::size_t>(path.rfind('/'), 1));
  if (stat(folder.c_str(), &status) != 0) return reason(errno);
  if (!is_trusted(status.st_uid)) {
    return fmt::format("is in a folder of uid {}, neither of root nor of uid {}", status.st_uid,
                       geteuid());
  }
  // In a sticky folder nobody can replace another's socket.
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (status.st_mode & S_ISVTX) == 0) {
    return fmt::format("is in a folder that others may write to; chmod go-w {}", folder);
  }
  return {};
}

// False when `until` comes first.
bool await(int fd, short events, Clock::time_point until) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    pollfd waited{fd, events, 0};
    const int ready = poll(&waited, 1, static_cast<int>(std::clamp<long>(left, 0, 3600000)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

// The kernel's word for who listens: what the path says may have changed since.
tl::expected<void, AgentFailure> check_listener(int fd, const std::string &path) {
  ucred listener{};
  socklen_t length = sizeof listener;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &listener, &length) != 0) {
    return failure(AgentFailureKind::broken, fmt::format("{}: {}", path, reason(errno)));
  }
  if (is_trusted(listener.uid)) return {};
  return failure(AgentFailureKind::untrusted,
                 fmt::format("{} is not used: uid {} listens at it, neither root nor uid {}", path,
                             listener.uid, geteuid()));
}

// Descriptors that came with a message; what is not taken is closed.
class Received {
 public:
  ~Received() {
    if (fd >= 0) close(fd);
  }
  void take(msghdr &message) {
    for (cmsghdr *part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
      if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t at = 0; at < count; ++at) {
        int one = -1;
        std::memcpy(&one, CMSG_DATA(part) + at * sizeof one, sizeof one);
        if (fd >= 0) close(fd);
        fd = one;
      }
    }
  }
  int release() { return std::exchange(fd, -1); }

  int fd = -1;
};

// `length` bytes, waiting until `until`. The failure's message says nothing of the path.
tl::expected<void, AgentFailure> receive(int socket, char *to, std::size_t length,
                                         Clock::time_point until, Received &received) {
  while (length > 0) {
    iovec part{to, length};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (await(socket, POLLIN, until)) continue;
      return failure(AgentFailureKind::silent, "it did not answer in time");
    }
    if (got < 0) return failure(AgentFailureKind::broken, reason(errno));
    if (got == 0) return failure(AgentFailureKind::broken, "it hung up");
    received.take(message);
    to += got;
    length -= static_cast<std::size_t>(got);
  }
  return {};
}

tl::expected<void, AgentFailure> send_all(int socket, const std::string &bytes,
                                          Clock::time_point until) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t put =
        send(socket, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put >= 0) {
      sent += static_cast<std::size_t>(put);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
      return failure(AgentFailureKind::broken, reason(errno));
    }
    if (!await(socket, POLLOUT, until)) {
      return failure(AgentFailureKind::silent, "it took no request in time");
    }
  }
  return {};
}

bool is_answer(AgentFrame frame) {
  switch (frame) {
    case AgentFrame::snapshot:
    case AgentFrame::unchanged:
    case AgentFrame::signature:
    case AgentFrame::text:
    case AgentFrame::refused:
      return true;
    default:
      return false;
  }
}

tl::unexpected<AgentFailure> refusal_of(const AgentAnswer &answer) {
  RefusedAnswer refused{};
  if (answer.bytes.size() < sizeof refused) {
    return failure(AgentFailureKind::broken, "its answer is not of the protocol");
  }
  std::memcpy(&refused, answer.bytes.data(), sizeof refused);
  return tl::unexpected(AgentFailure{AgentFailureKind::refused, refused.refusal,
                                     printable(answer.bytes.substr(sizeof refused))});
}

}  // namespace

AgentAnswer::AgentAnswer(AgentAnswer &&other) noexcept
    : frame(other.frame), bytes(std::move(other.bytes)), fd(std::exchange(other.fd, -1)) {}

AgentAnswer &AgentAnswer::operator=(AgentAnswer &&other) noexcept {
  std::swap(frame, other.frame);
  std::swap(bytes, other.bytes);
  std::swap(fd, other.fd);
  return *this;
}

AgentAnswer::~AgentAnswer() {
  if (fd >= 0) close(fd);
}

std::vector<std::string> standard_agent_sockets() {
  std::vector<std::string> paths{kAgentSocket};
  // Of a program with more rights than who started it (AT_SECURE) the environment is not asked.
  const char *const folder = secure_getenv("XDG_RUNTIME_DIR");
  if (folder != nullptr && folder[0] == '/')
    paths.push_back(folder + std::string("/inlay/agent.sock"));
  return paths;
}

AgentClient::AgentClient(AgentClient &&other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      timeout_(other.timeout_),
      last_request_(other.last_request_) {}

AgentClient::~AgentClient() {
  if (fd_ >= 0) close(fd_);
}

tl::expected<AgentClient, AgentFailure> AgentClient::connect(const std::vector<std::string> &paths,
                                                             std::chrono::milliseconds timeout) {
  std::string looked;
  for (const std::string &path : paths) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path || path.find('\0') != path.npos) {
      return failure(AgentFailureKind::absent,
                     fmt::format("{} is too long for a socket's path", printable(path)));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    AgentClient client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), path, timeout);
    if (client.fd_ < 0) return failure(AgentFailureKind::broken, reason(errno));
    // A blocking connect() waits while the backlog is full, no longer than SO_SNDTIMEO: EAGAIN
    // then.
    const auto limit = std::chrono::duration_cast<std::chrono::microseconds>(timeout).count();
    const timeval wait{limit / 1'000'000, limit % 1'000'000};
    setsockopt(client.fd_, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    if (::connect(client.fd_, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0) {
      if (errno == EAGAIN) {
        return failure(AgentFailureKind::silent,
                       fmt::format("the agent at {} is too busy to answer; try again", path));
      }
      looked += fmt::format("{}{}: {}", looked.empty() ? "" : "; ", path, reason(errno));
      continue;
    }
    fcntl(client.fd_, F_SETFL, O_NONBLOCK);
    if (auto good = check_listener(client.fd_, path); !good) return tl::unexpected(good.error());
    if (const std::string complaint = path_complaint(path); !complaint.empty()) {
      return failure(AgentFailureKind::untrusted,
                     fmt::format("the agent's socket is not used: {} {}", path, complaint));
    }
    return client;
  }
  return failure(AgentFailureKind::absent,
                 fmt::format("no agent listens ({}); start one with inlay agent --config FILE, or "
                             "name its socket",
                             looked));
}

tl::expected<AgentAnswer, AgentFailure> AgentClient::ask(AgentFrame frame, std::string_view bytes) {
  const auto until = Clock::now() + timeout_;
  const auto about = [this](AgentFailure reported) {
    reported.message = fmt::format("the agent at {}: {}", path_, reported.message);
    return tl::unexpected(std::move(reported));
  };
  if (bytes.size() > kMaxAgentRequest) {
    return about({AgentFailureKind::broken, {}, "the request is too large"});
  }
  AgentHeader header;
  header.frame = frame;
  header.length = static_cast<std::uint32_t>(bytes.size());
  header.request = ++last_request_;
  std::string request(reinterpret_cast<const char *>(&header), sizeof header);
  request += bytes;
  if (auto sent = send_all(fd_, request, until); !sent) return about(sent.error());

  for (;;) {
    Received received;
    AgentHeader head;
    if (auto got = receive(fd_, reinterpret_cast<char *>(&head), sizeof head, until, received);
        !got) {
      return about(got.error());
    }
    if (head.magic != kAgentMagic || head.version != kAgentVersion ||
        head.length > kMaxAgentAnswer || !is_answer(head.frame)) {
      return about({AgentFailureKind::broken, {}, "its answer is not of the protocol"});
    }
    AgentAnswer answer;
    answer.frame = head.frame;
    answer.bytes.resize(head.length);
    if (auto got = receive(fd_, answer.bytes.data(), head.length, until, received); !got) {
      return about(got.error());
    }
    if (head.request != last_request_) continue;  // news, or an answer that came too late
    answer.fd = received.release();
    if (answer.frame == AgentFrame::refused) return about(refusal_of(answer).value());
    return answer;
  }
}

}  // namespace inlay::identity
