// One open stream of the Workload API: the full state at once, and again with each change of it
// (SPIFFE_Workload_API.md §4.3). A caller that does not read gets the newest state when it does,
// not all that were between: there is never more than one message in memory.
#pragma once

#include <grpcpp/grpcpp.h>

#include <array>
#include <memory>
#include <mutex>
#include <optional>

#include "identity/agent/api_call.h"
#include "identity/agent/api_messages.h"

namespace inlay::identity::agent {

class ApiStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                        public std::enable_shared_from_this<ApiStream> {
 public:
  using Make = ApiMessage (*)(const View &, const Permitted &);

  static std::shared_ptr<ApiStream> open(ApiCall call, Make make);
  // Sends what the caller may have now, unless that is what it has, or ends the stream with the
  // reason why there is nothing. Any thread.
  void refresh();

 private:
  ApiStream(ApiCall call, Make make) : call_(std::move(call)), make_(make) {}

  void OnWriteDone(bool good) override;
  void OnCancel() override;
  void OnDone() override;

  // What is to be done when the lock is free again: gRPC may call back before it returns.
  struct Step {
    bool write = false;
    std::optional<grpc::Status> finish;
  };
  Step next();           // locked
  void take(Step step);  // not locked
  Step end(grpc::Status status);

  const ApiCall call_;
  const Make make_;
  std::shared_ptr<ApiStream> self_;  // until gRPC is done with it

  std::mutex mutex_;
  grpc::ByteBuffer message_;
  std::array<unsigned char, 32> sent_{};  // SHA-256 of the last message: no key is kept here
  bool any_sent_ = false;
  bool writing_ = false;
  bool stale_ = false;  // something changed during the write
  bool finished_ = false;
  std::optional<grpc::Status> finish_after_write_;
};

// A stream that has nothing but its status.
grpc::ServerWriteReactor<grpc::ByteBuffer> *refused_stream(grpc::Status status);

}  // namespace inlay::identity::agent
