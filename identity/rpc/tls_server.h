// A gRPC server, or one of HTTP/1.1 (http_server.h), on the network, behind TLS that knows SPIFFE
// IDs. Who has no certificate may connect, too: what he may ask is for the service to say, from
// PeerIdentity.
//
// gRPC 1.51 takes in more than it should from whom it does not know, and cannot be told whom to
// believe (http2_police.h); so it never sees the network.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/bundle.h"
#include "identity/rpc/tls_context.h"

namespace inlay::identity::rpc {

struct PeerIdentity {
  std::string address;         // "192.0.2.7:41234", "[2001:db8::7]:41234"
  std::optional<SpiffeId> id;  // proved: its chain was verified when it connected
  std::string serial;          // of its leaf, lower-case hexadecimal; "" without a certificate
  std::time_t not_after = 0;   // of its leaf
  std::string problem;  // why a certificate that it showed counts for nothing, one line; else ""
  // For the audit log alone, of a certificate that counts for nothing: whose it was while it was
  // good, where an authority of the bundle has signed it; else what it says of itself, whoever made
  // it.
  std::optional<SpiffeId> once;
  std::string claim;
};

struct TlsServerSettings {
  std::vector<std::string> listen;  // "0.0.0.0:8443", "[::]:8443"; port 0 picks one
  std::size_t connections = 4096;
  std::size_t connections_of_an_address = 64;
  std::size_t streams_of_a_connection = 32;
  int handshake_seconds = 10;
  Application application = Application::grpc;
  bool ask_client = true;  // for a certificate
};

class TlsServer {
 public:
  struct Host {
    // What clients' certificates are verified against, now. Never null. Any thread.
    std::function<std::shared_ptr<const BundleSet>()> bundles;
    std::function<std::time_t()> now;
    // Gives a connected socket to gRPC (AddInsecureChannelFromFd), or to whoever serves it, who
    // owns it then.
    std::function<void(int fd, const std::shared_ptr<const PeerIdentity> &peer)> adopt;
    // A connection that came to nothing: for the audit log. May be "".
    std::function<void(std::string_view address, std::string_view why)> refused;
  };

  // Whoever connects waits in the kernel until start(): what `host` does may need this server.
  static tl::expected<std::unique_ptr<TlsServer>, std::string> listen(TlsServerSettings settings,
                                                                      Host host,
                                                                      const TlsCredentials &own);
  void start();  // once
  // Ends every connection.
  ~TlsServer();
  TlsServer(const TlsServer &) = delete;
  TlsServer &operator=(const TlsServer &) = delete;

  // Where it listens, ports filled in.
  std::vector<std::string> addresses() const;
  // New handshakes use it. Any thread.
  tl::expected<void, std::string> use(const TlsCredentials &own);
  // Who is behind a call, by gRPC's name of its connection (ServerContext::peer()); null when it is
  // gone. Any thread.
  std::shared_ptr<const PeerIdentity> peer(std::string_view grpc_peer) const;

 private:
  struct State;
  explicit TlsServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inlay::identity::rpc
