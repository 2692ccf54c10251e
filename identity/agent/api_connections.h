// The connections that gRPC serves, and whose they are. gRPC names a call's connection by the
// number of its descriptor alone ("fd:7"). A call keeps its connection's descriptor open, so while
// there is a call the number means what it meant when the call began.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

#include "identity/agent/workload.h"
#include "identity/rpc/http2_police.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

struct ApiConnection {
  Caller caller;
  std::uint64_t cookie = 0;  // SO_COOKIE: no two sockets of this boot have the same
  rpc::StreamCount streams;  // of its user
  policy::UniqueFd process;  // pidfd of who connected, whoever has its pid now
  std::weak_ptr<const policy::UniqueFd> client;  // his own end, as long as it is relayed
};

class ApiConnections {
 public:
  // `cut_off` is told of whoever has to make room.
  ApiConnections(std::size_t limit, std::size_t limit_of_a_user,
                 std::function<void(const Caller &, std::string_view why)> cut_off)
      : limit_(limit), limit_of_a_user_(limit_of_a_user), cut_off_(std::move(cut_off)) {}

  // Why not, over the user's limit or when the caller is no more. Over the limit of all, whoever
  // has the most loses his newest one: what was there before a flood stays. `client` is the
  // caller's connection, `fd` the one that gRPC will name. What is returned counts the user's
  // streams.
  tl::expected<rpc::StreamCount, std::string_view> add(
      int fd, const std::shared_ptr<const policy::UniqueFd> &client, const Caller &caller);
  // Null when there is none such.
  std::shared_ptr<const ApiConnection> find(std::string_view grpc_peer) const;
  bool any_of(uid_t user);

 private:
  void forget_closed();
  bool make_room(std::size_t of_newcomer);

  const std::size_t limit_;
  const std::size_t limit_of_a_user_;
  const std::function<void(const Caller &, std::string_view why)> cut_off_;
  mutable std::mutex mutex_;
  std::map<int, std::shared_ptr<const ApiConnection>> by_fd_;
};

}  // namespace inlay::identity::agent
