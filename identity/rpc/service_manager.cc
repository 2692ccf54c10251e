#include "identity/rpc/service_manager.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "identity/rpc/monotonic.h"
#include "policy/trusted_file.h"

namespace inlay::identity::rpc {
namespace {

std::int64_t number(const char *text) {
  std::int64_t value = 0;
  if (text != nullptr) std::from_chars(text, text + std::strlen(text), value);
  return value;
}

}  // namespace

ServiceManager::ServiceManager() {
  const char *socket = std::getenv("NOTIFY_SOCKET");
  if (socket != nullptr && (*socket == '/' || *socket == '@')) socket_ = socket;
  const char *pid = std::getenv("WATCHDOG_PID");
  if (pid == nullptr || number(pid) == getpid()) {
    watchdog_ms_ = number(std::getenv("WATCHDOG_USEC")) / 1000;
  }
  for (const char *name : {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}) unsetenv(name);
}

void ServiceManager::ready(std::string_view status) const {
  send(fmt::format("READY=1\nSTATUS={}", status));
}

void ServiceManager::reloading() const {
  send(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000));
}

void ServiceManager::stopping() const { send("STOPPING=1"); }
void ServiceManager::alive() const { send("WATCHDOG=1"); }

void ServiceManager::send(const std::string &text) const {
  sockaddr_un address{};
  if (socket_.empty() || socket_.size() >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_.data(), socket_.size());
  if (socket_[0] == '@') address.sun_path[0] = '\0';  // an abstract name
  policy::UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return;
  sendto(fd.get(), text.data(), text.size(), MSG_NOSIGNAL,
         reinterpret_cast<const sockaddr *>(&address),
         static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size()));
}

}  // namespace inlay::identity::rpc
