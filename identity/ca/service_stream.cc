#include "identity/ca/service_stream.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <utility>

namespace inlay::identity::ca {
namespace {

// The same bytes for the same state: maps in order, the generation left out.
std::string text_of(inlay::enrolment::v1::NodeState state) {
  state.clear_generation();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    state.SerializeToCodedStream(&coded);
  }
  return bytes;
}

class Refused final : public grpc::ServerWriteReactor<inlay::enrolment::v1::NodeState> {
 public:
  explicit Refused(const grpc::Status &status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

void NodeStream::refresh() {
  const std::lock_guard one_at_a_time(refreshing_);
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return;
    if (writing_) {
      stale_ = true;
      return;
    }
  }
  auto state = now();
  if (!state) return end(state.error());
  std::string text = text_of(*state);
  {
    const std::lock_guard lock(mutex_);
    if (finished_ || text == sent_) return;
    sent_ = std::move(text);
    message_ = std::move(*state);
    writing_ = true;
  }
  StartWrite(&message_);
}

void NodeStream::end(const grpc::Status &status) {
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    if (writing_) {
      finish_after_write_ = status;
      return;
    }
  }
  Finish(status);
}

void NodeStream::OnWriteDone(bool good) {
  std::optional<grpc::Status> finish;
  bool again = false;
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    again = std::exchange(stale_, false) && good && !finished_;
    if (!good && !finished_) {
      finished_ = true;
      finish = grpc::Status::CANCELLED;
    } else if (finish_after_write_) {
      finish = std::exchange(finish_after_write_, std::nullopt);
    }
  }
  if (finish) return Finish(*finish);
  if (again) refresh();
}

void NodeStream::OnCancel() { end(grpc::Status::CANCELLED); }

grpc::ServerWriteReactor<inlay::enrolment::v1::NodeState> *refused_node_stream(
    const grpc::Status &status) {
  return new Refused(status);
}

}  // namespace inlay::identity::ca
