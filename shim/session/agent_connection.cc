#include "shim/session/agent_connection.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "identity/user_namespace.h"
#include "shim/arena/kernel.h"
#include "shim/boot/sandbox.h"
#include "shim/session/internal.h"
#include "shim/session/lifetime.h"
#include "shim/session/proc.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

constexpr std::size_t kMostUnsent = 64 * 1024;  // more waits for an agent that hangs
constexpr std::size_t kHeaderSize = sizeof(identity::AgentHeader);

void append(std::vector<std::uint8_t> &out, std::span<const std::uint8_t> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// As identity/user_namespace.h has it, but for the default overflow uid alone: reading what it is
// set to could be what a program has forbidden itself, and this is asked in all of them.
bool may_be_anybody(uid_t user) noexcept {
  constexpr uid_t kOverflow = 65534;
  char map[128];
  return user == kOverflow && (read_proc(ProcPath().before("/proc/self/uid_map"), map) <= 0 ||
                               !identity::maps_everybody(map));
}

// 0 when the kernel does not say.
std::uint64_t inode_of(int fd) noexcept {
  struct stat info {};
  return kernel::call(SYS_fstat, fd, kernel::word(&info)) == 0 ? info.st_ino : 0;
}

// Whoever listens on a socket hands out this process's identity: nobody but root and this user may.
bool is_trusted_listener(int fd) noexcept {
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (kernel::get_option(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  if (peer.uid == 0) return true;
  return static_cast<long>(peer.uid) == kernel::call(SYS_geteuid) && !may_be_anybody(peer.uid);
}

}  // namespace

AgentFrameBody::~AgentFrameBody() {
  if (fd >= 0) close_own(fd);
}

void AgentFrameBody::swap(AgentFrameBody &other) noexcept {
  std::swap(header, other.header);
  bytes.swap(other.bytes);
  std::swap(fd, other.fd);
}

int AgentConnection::open(const char *path) noexcept {
  close();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (std::strlen(path) >= sizeof(address.sun_path)) return ENAMETOOLONG;
  std::strcpy(address.sun_path, path);
  const long made =
      kernel::call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (made < 0) return static_cast<int>(-made);
  const int fd = make_own(static_cast<int>(made));
  if (fd < 0) {
    kernel::close(static_cast<int>(made));
    return EMFILE;
  }
  cookie_ = cookie_of(fd);
  inode_ = boot::sandboxed() ? 0 : inode_of(fd);
  const long connected = kernel::call(SYS_connect, fd, kernel::word(&address), sizeof(address));
  const int error = cookie_ == 0               ? ENOBUFS
                    : connected < 0            ? static_cast<int>(-connected)
                    : !is_trusted_listener(fd) ? EPERM
                                               : 0;
  if (error != 0) {
    close_own(fd);
    return error;
  }
  fd_ = fd;
  return 0;
}

void AgentConnection::close() noexcept {
  if (fd_ >= 0 && is_ours()) close_own(fd_);
  forget();
}

void AgentConnection::forget() noexcept {
  fd_ = -1;
  unsent_.clear();
  sent_ = 0;
  received_ = 0;
  incoming_.bytes.clear();
  // In a child the number may be somebody else's by now.
  if (const int fd = std::exchange(incoming_.fd, -1); is_own_descriptor(fd)) close_own(fd);
}

bool AgentConnection::is_ours() const noexcept {
  const std::uint64_t cookie = cookie_of(fd_);
  if (cookie != 0 || boot::sandboxed()) return cookie == cookie_;
  return inode_ != 0 && inode_of(fd_) == inode_;  // not answered, and it is to be closed
}

std::uint32_t AgentConnection::request(identity::AgentFrame frame,
                                       std::span<const std::uint8_t> head,
                                       std::span<const std::uint8_t> body) {
  if (!is_open()) return 0;
  if (unsent_.size() - sent_ > kMostUnsent) {
    close();
    return 0;
  }
  if (++last_request_ == 0) ++last_request_;  // 0 is the agent's own
  identity::AgentHeader header;
  header.frame = frame;
  header.length = static_cast<std::uint32_t>(head.size() + body.size());
  header.request = last_request_;
  // Never half a frame, for want of memory.
  unsent_.reserve(unsent_.size() + sizeof header + head.size() + body.size());
  append(unsent_, {reinterpret_cast<const std::uint8_t *>(&header), sizeof header});
  append(unsent_, head);
  append(unsent_, body);
  return flush() ? last_request_ : 0;
}

bool AgentConnection::flush() noexcept {
  if (!is_open()) return false;
  if (wants_write() && !is_ours()) {
    forget();
    return false;
  }
  while (wants_write()) {
    const long sent = kernel::send(fd_, unsent_.data() + sent_, unsent_.size() - sent_,
                                   MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == -EAGAIN || sent == -EINTR) return true;
    if (sent < 0) {
      close();
      return false;
    }
    sent_ += static_cast<std::size_t>(sent);
  }
  unsent_.clear();
  sent_ = 0;
  return true;
}

// A descriptor comes with the first byte of its frame.
long AgentConnection::receive_header(AgentFrameBody &frame) noexcept {
  auto *at = reinterpret_cast<std::uint8_t *>(&frame.header) + received_;
  const std::size_t room = kHeaderSize - received_;
  // A program's own seccomp filter may know recvfrom and not recvmsg; a descriptor is lost then.
  if (boot::sandboxed()) return kernel::receive(fd_, at, room, MSG_DONTWAIT);
  iovec part{at, room};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_LEN(sizeof(int));  // with the padding there would be room for two
  const long got =
      kernel::call(SYS_recvmsg, fd_, kernel::word(&message), MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return got;
  for (cmsghdr *item = CMSG_FIRSTHDR(&message); item != nullptr;
       item = CMSG_NXTHDR(&message, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
    int passed = -1;
    std::memcpy(&passed, CMSG_DATA(item), sizeof passed);
    // As long as it has a low number the program may take it for one of its own.
    const int own = make_own(passed);
    if (own < 0) kernel::close(passed);
    if (frame.fd >= 0) close_own(frame.fd);
    frame.fd = own;
  }
  return got;
}

AgentConnection::Got AgentConnection::receive(AgentFrameBody &frame) {
  if (!is_open()) return Got::gone;
  if (!is_ours()) {
    forget();
    return Got::gone;
  }
  const auto gone = [this] {
    close();
    return Got::gone;
  };
  for (;;) {
    long got = 0;
    if (received_ < kHeaderSize) {
      got = receive_header(incoming_);
    } else {
      const std::size_t have = received_ - kHeaderSize;
      incoming_.bytes.resize(incoming_.header.length);
      if (have == incoming_.header.length) {
        AgentFrameBody{}.swap(frame);
        frame.swap(incoming_);
        received_ = 0;
        return Got::frame;
      }
      got = kernel::receive(fd_, incoming_.bytes.data() + have, incoming_.header.length - have,
                            MSG_DONTWAIT);
    }
    if (got == -EINTR) continue;
    if (got == -EAGAIN) return Got::nothing;
    if (got <= 0) return gone();
    received_ += static_cast<std::size_t>(got);
    if (received_ == kHeaderSize && (incoming_.header.magic != identity::kAgentMagic ||
                                     incoming_.header.version != identity::kAgentVersion ||
                                     incoming_.header.length > identity::kMaxAgentAnswer)) {
      return gone();
    }
  }
}

std::string describe_agent_error(int error) {
  if (error == EPERM) return "it belongs to another user, who is not asked";
  return std::string(strerrordesc_np(error)) + "; is inlay-agent running?";
}

std::uint32_t request_attach(AgentConnection &connection, const identity::SnapshotAnswer &known) {
  identity::AttachRequest wanted{.epoch = known.epoch, .generation = known.generation};
  std::strncpy(wanted.version, INLAY_VERSION, sizeof(wanted.version) - 1);
  return connection.request(identity::AgentFrame::attach, bytes_of(wanted));
}

std::string refusal_text(const AgentFrameBody &frame) {
  const std::size_t text = std::min(sizeof(identity::RefusedAnswer), frame.bytes.size());
  return {frame.bytes.begin() + static_cast<std::ptrdiff_t>(text), frame.bytes.end()};
}

}  // namespace inlay::shim
