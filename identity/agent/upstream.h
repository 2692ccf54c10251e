// Being a client of a Workload API: its socket, and streams that are opened again when they end.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tl/expected.hpp>

#include "identity/agent/workload_api_source.h"

namespace inlay::identity::agent {

// A connection to settings.socket whose other end is root, this user or one of the owners: who
// listens there decides what everybody on this machine is. The error is one line.
tl::expected<std::shared_ptr<grpc::Channel>, std::string> connect_upstream(
    const WorkloadApiSettings &settings);

// A call's metadata (SPIFFE_Workload_Endpoint.md §3), and no proxy, retry or wait of gRPC's own.
void prepare_call(grpc::ClientContext &context);

// The end of a sentence about whoever was called: how it ended the call.
std::string status_text(const grpc::Status &status);

// Whether the same call would only end the same way (SPIFFE_Workload_Endpoint.md, appendix A).
bool no_use_to_repeat(const grpc::Status &status);

// A thread that keeps a stream open: `read` opens and reads it, and returns when it has ended.
// Between two attempts it waits, longer each time until a stream has brought something.
class UpstreamStream {
 public:
  struct End {
    bool brought_something = false;
    bool for_good = false;  // coming again would be no use
  };
  using Read = std::function<End(grpc::ClientContext &)>;

  UpstreamStream(std::chrono::milliseconds pause, Read read);
  ~UpstreamStream();
  // What kept the stream down may be over: the wait that is on, or would be the next, ends at once.
  void retry();
  UpstreamStream(const UpstreamStream &) = delete;
  UpstreamStream &operator=(const UpstreamStream &) = delete;

 private:
  enum class Waited : std::uint8_t { all, told, ending };
  void run();
  Waited wait(std::chrono::milliseconds pause);

  const std::chrono::milliseconds pause_;
  const Read read_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  bool retrying_ = false;
  grpc::ClientContext *current_ = nullptr;
  std::thread thread_;
};

}  // namespace inlay::identity::agent
