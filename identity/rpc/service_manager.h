// What systemd wants to know of a service of Type=notify (sd_notify(3)): a datagram of text to the
// socket in $NOTIFY_SOCKET. Without that nothing is sent.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace inlay::identity::rpc {

class ServiceManager {
 public:
  // Takes the variables out of the environment.
  ServiceManager();

  void ready(std::string_view status) const;
  void reloading() const;
  void stopping() const;
  void alive() const;
  // How often alive() is expected at the least, in milliseconds; 0: never.
  std::int64_t watchdog() const noexcept { return watchdog_ms_; }

 private:
  void send(const std::string &text) const;

  std::string socket_;
  std::int64_t watchdog_ms_ = 0;
};

}  // namespace inlay::identity::rpc
