// The thread between TLS connections and gRPC: what arrives encrypted goes on in the clear over a
// socket pair, and back. A server's handshakes are driven here, too.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "identity/openssl.h"
#include "identity/rpc/http2_police.h"
#include "identity/rpc/tls_context.h"
#include "policy/trusted_file.h"

namespace inlay::identity::rpc {

class TlsRelay {
 public:
  // One connection. Until its handshake is over `plain` is empty and `established` is called when
  // it is, which gives the relay's end of a socket pair; an empty one drops the connection.
  struct Connection {
    policy::UniqueFd network;  // non-blocking
    policy::UniqueFd plain;    // non-blocking
    JudgeChain judge;
    std::shared_ptr<SSL_CTX> context;
    SslPtr ssl;  // of `context`, on `network`, with `judge`
    std::unique_ptr<Http2Police> police;
    std::function<policy::UniqueFd(Connection &)> established;
    std::function<void(const Connection &, const std::string &why)> failed;  // the handshake did
    std::shared_ptr<void> held;  // released when the connection is gone
    std::int64_t deadline = 0;   // of the handshake, milliseconds of the monotonic clock

    // The relay's own.
    std::string to_plain;
    std::string to_network;
    bool plain_ended = false;
    ~Connection();
  };

  TlsRelay();
  ~TlsRelay();
  TlsRelay(const TlsRelay &) = delete;
  TlsRelay &operator=(const TlsRelay &) = delete;

  // False when there is no thread to be had. Any thread.
  bool add(std::unique_ptr<Connection> connection);

 private:
  enum class Outcome : std::uint8_t { waits, goes_on, over };

  void run();
  bool take_fresh();  // false: this object ends
  int until_deadline() const;
  void drop_late();
  Outcome move(Connection &connection);
  Outcome shake(Connection &connection);
  Outcome inward(Connection &connection);
  Outcome outward(Connection &connection);

  const policy::UniqueFd epoll_;
  const policy::UniqueFd wake_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> fresh_;
  bool ending_ = false;
  std::map<Connection *, std::unique_ptr<Connection>> connections_;  // the thread's, as is the rest
  std::vector<Connection *> unfinished_;  // moved as much as one may at a time
  std::unique_ptr<char[]> buffer_;
  std::thread thread_;
};

std::int64_t monotonic_ms();

}  // namespace inlay::identity::rpc
