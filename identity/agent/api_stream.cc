#include "identity/agent/api_stream.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <utility>

#include "identity/openssl.h"

namespace inlay::identity::agent {
namespace {

// gRPC writes from this memory, and lets go of it when the kernel has it.
grpc::ByteBuffer as_byte_buffer(SecretBytes bytes) {
  auto *const owner = new SecretBytes(std::move(bytes));
  const grpc::Slice slice(
      owner->data.get(), owner->size, [](void *held) { delete static_cast<SecretBytes *>(held); },
      owner);
  return {&slice, 1};
}

std::array<unsigned char, 32> digest_of(std::string_view bytes) {
  std::array<unsigned char, 32> digest{};
  EVP_Q_digest(library_context(), "SHA256", nullptr, bytes.data(), bytes.size(), digest.data(),
               nullptr);
  return digest;
}

class RefusedStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit RefusedStream(grpc::Status status) { Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer> *refused_stream(grpc::Status status) {
  return new RefusedStream(std::move(status));
}

std::shared_ptr<ApiStream> ApiStream::open(ApiCall call, Make make) {
  const std::shared_ptr<ApiStream> stream(new ApiStream(std::move(call), make));
  stream->self_ = stream;
  return stream;
}

void ApiStream::refresh() {
  Step step;
  {
    const std::lock_guard lock(mutex_);
    step = next();
  }
  take(std::move(step));
}

// The state is looked at under the lock, so that an older one never overtakes a newer.
ApiStream::Step ApiStream::next() {
  if (finished_ || finish_after_write_) return {};
  if (writing_) {
    stale_ = true;
    return {};
  }
  const auto permitted = call_.attest();
  if (!permitted) return end(permitted.error());
  auto message = make_(*call_.host().view(), *permitted);
  if (!message) {
    return end(call_.refuse(grpc::StatusCode::UNAVAILABLE, message.error(), permitted->id.uri()));
  }
  const auto digest = digest_of(message->view());
  if (any_sent_ && digest == sent_) return {};
  call_.given(permitted->id.uri());
  message_ = as_byte_buffer(std::move(*message));
  sent_ = digest;
  any_sent_ = writing_ = true;
  stale_ = false;
  return {true, std::nullopt};
}

ApiStream::Step ApiStream::end(grpc::Status status) {
  if (finished_) return {};
  if (writing_) {
    finish_after_write_ = std::move(status);
    return {};
  }
  finished_ = true;
  return {false, std::move(status)};
}

void ApiStream::take(Step step) {
  if (step.write) StartWrite(&message_);
  if (step.finish) Finish(std::move(*step.finish));
}

void ApiStream::OnWriteDone(bool good) {
  const auto self = shared_from_this();
  Step step;
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    message_.Clear();
    if (auto status = std::exchange(finish_after_write_, std::nullopt)) {
      step = end(std::move(*status));
    } else if (!good) {
      step = end(grpc::Status::CANCELLED);
    } else if (stale_) {
      step = next();
    }
  }
  take(std::move(step));
}

void ApiStream::OnCancel() {
  const auto self = shared_from_this();
  Step step;
  {
    const std::lock_guard lock(mutex_);
    step = end(grpc::Status::CANCELLED);
  }
  take(std::move(step));
}

void ApiStream::OnDone() { self_.reset(); }

}  // namespace inlay::identity::agent
