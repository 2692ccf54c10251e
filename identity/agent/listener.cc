#include "identity/agent/listener.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "identity/agent/credentials.h"

namespace inlay::identity::agent {
namespace {

using policy::UniqueFd;

constexpr int kFirstInherited = 3;  // SD_LISTEN_FDS_START

std::string because(const std::string &what, int error) {
  const char *why = strerrordesc_np(error);
  return fmt::format("{}: {}", what, why != nullptr ? why : "error");
}

tl::unexpected<std::string> failed(std::string message) {
  return tl::unexpected(std::move(message));
}

sockaddr_un address_of(const std::string &path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Whether somebody takes connections at `path`; a full backlog is a listener, too.
bool somebody_listens(const sockaddr_un &address) {
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return !probe ||
         connect(probe.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0 ||
         errno != ECONNREFUSED;
}

// Readable for others is enough: who may have what is decided by who asks. A user's own agent is
// nobody else's business.
mode_t mode_of_socket() { return geteuid() == 0 ? 0666 : 0600; }

tl::expected<void, std::string> prepare(int fd) {
  if (!pass_credentials(fd)) return failed(because("the socket cannot tell who writes", errno));
  if (listen(fd, SOMAXCONN) != 0) return failed(because("cannot listen", errno));
  return {};
}

}  // namespace

tl::expected<Listener, std::string> Listener::open(const std::string &path) {
  sockaddr_un address{};
  std::size_t slash = path.rfind('/');
  if (!path.starts_with('/') || path.size() >= sizeof address.sun_path ||
      slash + 1 == path.size()) {
    return failed(path + ": not a path a socket can have (absolute, at most 107 bytes)");
  }
  address = address_of(path);
  const std::string folder = slash == 0 ? "/" : path.substr(0, slash);
  const std::string name = path.substr(slash + 1);
  mkdir(folder.c_str(), geteuid() == 0 ? 0755 : 0700);  // what is there already is judged below
  auto opened = policy::open_trusted_folder(folder, {});
  if (!opened) return failed(fmt::format("{}: {}", path, opened.error()));

  // Everything goes by the folder that was judged.
  UniqueFd lock(openat(opened->get(), (name + ".lock").c_str(),
                       O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return failed(because(path + ".lock", errno));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return failed(path + ": another agent is running with this socket; stop it first");
  }
  struct stat status {};
  if (fstatat(opened->get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISSOCK(status.st_mode)) {
      return failed(path + ": something that is no socket has this name; move it away");
    }
    if (somebody_listens(address)) {
      return failed(path + ": another program listens there; stop it or choose another socket");
    }
    if (unlinkat(opened->get(), name.c_str(), 0) != 0) {
      return failed(because(path + ": the old socket cannot be removed", errno));
    }
  }
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return failed(because(path, errno));
  if (bind(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0) {
    return failed(because(path, errno));
  }
  if (fchmodat(opened->get(), name.c_str(), mode_of_socket(), 0) != 0) {
    return failed(because(path, errno));
  }
  if (auto good = prepare(fd.get()); !good) return failed(path + ": " + good.error());
  return Listener(std::move(fd), std::move(lock), path);
}

tl::expected<std::optional<Listener>, std::string> Listener::inherited() {
  auto number = [](const char *variable) {
    const char *text = std::getenv(variable);
    int value = -1;
    if (text != nullptr) std::from_chars(text, text + std::strlen(text), value);
    return value;
  };
  int pid = number("LISTEN_PID");
  int count = number("LISTEN_FDS");
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  unsetenv("LISTEN_FDNAMES");
  if (pid != getpid() || count < 1) return std::optional<Listener>();
  if (count > 1) return failed("systemd hands over several sockets: the agent needs one");
  UniqueFd fd(kFirstInherited);
  fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  int type = 0, listening = 0, domain = 0;
  socklen_t length = sizeof type;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_STREAM ||
      getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX ||
      getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0 || listening == 0) {
    return failed("what systemd hands over is no listening Unix socket: ListenStream=PATH");
  }
  sockaddr_un address{};
  length = sizeof address;
  getsockname(fd.get(), reinterpret_cast<sockaddr *>(&address), &length);
  if (auto good = prepare(fd.get()); !good) return failed(good.error());
  return std::optional(Listener(std::move(fd), UniqueFd(), address.sun_path));
}

Listener::~Listener() { remove(); }

void Listener::remove() noexcept {
  if (!lock_ || !fd_) return;
  // The lock's file stays: whoever has opened it already would hold a lock that nobody else sees.
  unlink(path_.c_str());
  fd_ = UniqueFd();
  lock_ = UniqueFd();
}

}  // namespace inlay::identity::agent
