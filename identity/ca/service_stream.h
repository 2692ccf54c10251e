// One open Watch: the whole state at once, and again when it is another. Who does not read gets the
// newest when he does; there is never more than one message in memory.
#pragma once

#include <enrolment.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <mutex>
#include <optional>
#include <string>
#include <tl/expected.hpp>

namespace inlay::identity::ca {

class NodeStream : public grpc::ServerWriteReactor<inlay::enrolment::v1::NodeState> {
 public:
  // Sends what there is now, unless that is what was sent, or ends the stream. Any thread.
  void refresh();

 protected:
  using State = inlay::enrolment::v1::NodeState;
  // What the node has now, or why it has nothing any more.
  virtual tl::expected<State, grpc::Status> now() = 0;
  // gRPC is done with this object: it may be deleted.
  virtual void done() = 0;

 private:
  void OnWriteDone(bool good) override;
  void OnCancel() override;
  void OnDone() override { done(); }
  void end(const grpc::Status &status);

  std::mutex refreshing_;  // one at a time: the newest must not be overtaken
  std::mutex mutex_;       // guards what follows
  State message_;          // being written
  std::string sent_;       // the last one, without its generation
  bool writing_ = false;
  bool stale_ = false;  // something may have changed during the write
  bool finished_ = false;
  std::optional<grpc::Status> finish_after_write_;
};

// A stream that has nothing but its status.
grpc::ServerWriteReactor<inlay::enrolment::v1::NodeState> *refused_node_stream(
    const grpc::Status &status);

}  // namespace inlay::identity::ca
