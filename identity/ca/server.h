// inlay-ca's server: the network side, its own SVID, and what is in force, put together.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/in_force.h"
#include "identity/ca/service.h"
#include "identity/ca/web_endpoints.h"

namespace inlay::identity::ca {

struct ServerSettings {
  std::vector<std::string> listen;  // "0.0.0.0:8443"
  std::size_t connections = 4096;
  std::size_t connections_of_an_address = 64;
  IssuingSettings issuing;
  InForceSettings in_force;
  WebEndpoints::Settings web;
  std::vector<FederationSettings> federations;
};

struct ServerHost {
  Store &store;  // outlives the server, as the next
  const Seal &seal;
  // Any thread, as the next.
  std::function<void(const AuditRecord &)> audit;
  std::function<void(const std::string &problem)> note;  // what the administrator must know
};

class Server {
 public:
  // Serves when it returns. The error is one line.
  static tl::expected<std::unique_ptr<Server>, std::string> start(ServerSettings settings,
                                                                  ServerHost host);
  // Ends every call.
  ~Server();
  Server(const Server &) = delete;
  Server &operator=(const Server &) = delete;

  std::vector<std::string> addresses() const;
  std::vector<std::string> web_addresses() const;  // "127.0.0.1:8444 (bundle_endpoint)"
  std::shared_ptr<const InForce> in_force() const;

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace inlay::identity::ca
