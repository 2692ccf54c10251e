// The connections that gRPC serves, and whose they are. gRPC names a call's connection by the
// number of its descriptor alone ("fd:7"). A call keeps its connection's descriptor open, so while
// there is a call the number means what it meant when the call began.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

#include "identity/rpc/http2_police.h"
#include "identity/agent/workload.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

struct ApiConnection {
  Caller caller;
  std::uint64_t cookie = 0;  // SO_COOKIE: no two sockets of this boot have the same
  rpc::StreamCount streams;       // of its user
  policy::UniqueFd process;  // pidfd of who connected, whoever has its pid now
};

class ApiConnections {
 public:
  ApiConnections(std::size_t limit, std::size_t limit_of_a_user)
      : limit_(limit), limit_of_a_user_(limit_of_a_user) {}

  // Null over the limits, or when the caller is no more. `client` is the caller's connection, `fd`
  // the one that gRPC will name. Neither is taken. What is returned counts the user's streams.
  rpc::StreamCount add(int fd, int client, const Caller &caller);
  // Null when there is none such.
  std::shared_ptr<const ApiConnection> find(std::string_view grpc_peer) const;
  bool any_of(uid_t user);

 private:
  void forget_closed();

  const std::size_t limit_;
  const std::size_t limit_of_a_user_;
  mutable std::mutex mutex_;
  std::map<int, std::shared_ptr<const ApiConnection>> by_fd_;
};

}  // namespace inlay::identity::agent
