// The agent's Unix socket: made in a folder that nobody else can change, or handed over by systemd.
#pragma once

#include <optional>
#include <string>
#include <tl/expected.hpp>

#include "policy/trusted_file.h"

namespace inlay::identity::agent {

class Listener {
 public:
  // Listens at `path` (absolute). Its folder is made when it is missing, and refused when others
  // may write to it; a socket nobody listens at is replaced, anything else left alone. A lock
  // beside it keeps two agents from doing that to each other. The error is one line.
  static tl::expected<Listener, std::string> open(const std::string &path);

  // The socket that systemd listens at for us (sd_listen_fds(3): $LISTEN_PID, $LISTEN_FDS); empty
  // when there is none. Takes the variables out of the environment.
  static tl::expected<std::optional<Listener>, std::string> inherited();

  Listener(Listener &&) = default;
  Listener &operator=(Listener &&) = delete;
  ~Listener();

  int fd() const { return fd_.get(); }
  const std::string &path() const { return path_; }
  // The socket's name goes, unless the socket is systemd's.
  void remove() noexcept;

 private:
  Listener(policy::UniqueFd fd, policy::UniqueFd lock, std::string path)
      : fd_(std::move(fd)), lock_(std::move(lock)), path_(std::move(path)) {}

  policy::UniqueFd fd_;
  policy::UniqueFd lock_;  // empty: not ours to remove
  std::string path_;
};

}  // namespace inlay::identity::agent
