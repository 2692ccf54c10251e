// The SPIFFE Workload API on the agent's socket, over gRPC (SPIFFE_Workload_API.md,
// SPIFFE_Workload_Endpoint.md), for programs that speak it themselves: go-spiffe, Envoy's and
// others' helpers. Unlike libinlay.so they are given private keys.
//
// gRPC keeps peer credentials to itself. Therefore the agent accepts, and hands over the descriptor
// together with what the kernel said of its peer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/identities.h"
#include "identity/agent/workload.h"
#include "identity/agent_protocol.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

// What a process is, by the one entry that matches it.
struct Permitted {
  SpiffeId id;
  std::string hint;  // of the entry; "" = none
};

struct NotPermitted {
  AgentRefusal refusal = AgentRefusal::internal;
  std::string told;  // one line for the caller
};

// For the audit log and the metrics: something was given, or was refused.
struct WorkloadApiEvent {
  Caller caller;
  std::string_view method;     // "FetchX509SVID"
  std::string_view spiffe_id;  // "" where none was found
  // Why it was refused, as far as these names go: malformed for all that is wrong with a request.
  std::optional<AgentRefusal> refusal;
  std::string_view status = "OK";  // gRPC's name of it: "PERMISSION_DENIED"
  std::string_view told;           // "" when it went well
};

// What the API stands on. Called from several threads at once, attest(), audit() and cut_off()
// from each of them; none may throw.
struct WorkloadApiHost {
  // From kernel truth of this moment, of the process that the pidfd means. Asked at each request
  // and again before each further message of a stream: a process that is no longer what it was gets
  // no newer key.
  std::function<tl::expected<Permitted, NotPermitted>(const Caller &, int pidfd)> attest;
  std::function<std::shared_ptr<const View>()> view;
  // May wait.
  std::function<tl::expected<JwtSvid, SourceFailure>(const SpiffeId &,
                                                     const std::vector<std::string> &)>
      obtain_jwt;
  std::function<void(const WorkloadApiEvent &)> audit;
  // A connection was cut, without a call that could be told.
  std::function<void(const Caller &, std::string_view why)> cut_off;
};

// Bounds, each far above what a helper or a library needs.
struct WorkloadApiLimits {
  std::size_t connections = 1024;
  std::size_t connections_of_a_user = 128;  // root included: its programs run wild, too
  std::size_t calls_of_a_user = 512;        // streams are calls
  std::uint32_t calls_a_second = 2000;      // of a user; twice as many at once
  std::size_t bytes_of_a_user = 16u << 20;  // of gRPC's memory; then it ends calls
  std::size_t idle_seconds = 300;           // a connection without a call is closed

  // What `descriptors` are enough for, beside the seats (seats.h): each connection has four.
  static WorkloadApiLimits of(std::size_t descriptors) noexcept;
};

class WorkloadApi {
 public:
  explicit WorkloadApi(WorkloadApiHost host, WorkloadApiLimits limits = {});
  // Ends every call; waits for those of them that wait for obtain_jwt().
  ~WorkloadApi();
  WorkloadApi(const WorkloadApi &) = delete;
  WorkloadApi &operator=(const WorkloadApi &) = delete;

  // Serves a connected socket, from which nothing was read yet. Returns at once; gRPC's threads
  // start with the first one. False when it is over the limits, or its peer is no more: it is
  // closed then. Any thread.
  bool adopt(policy::UniqueFd connection, const Caller &caller);
  // view() or what attest() answers may have changed: streams get what is new for them. Returns at
  // once. Any thread.
  void changed();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inlay::identity::agent
