#include "identity/agent/upstream.h"

#include <fmt/format.h>
#include <grpcpp/create_channel_posix.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

#include "identity/certificate.h"
#include "identity/rpc/grpc_quiet.h"
#include "identity/user_namespace.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

constexpr int kMaxMessage = 4 << 20;  // gRPC's own default, and what other clients take
constexpr int kLongestPause = 30;     // times the first

// A tenth either way, so that all agents of a machine do not come at once.
std::chrono::milliseconds with_jitter(std::chrono::milliseconds pause) {
  static thread_local std::minstd_rand random{std::random_device{}()};
  std::uniform_real_distribution<double> tenth(0.9, 1.1);
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(static_cast<double>(pause.count()) * tenth(random)));
}

}  // namespace

bool no_use_to_repeat(const grpc::Status &status) {
  return status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ||
         status.error_code() == grpc::StatusCode::UNIMPLEMENTED;
}

tl::expected<std::shared_ptr<grpc::Channel>, std::string> connect_upstream(
    const WorkloadApiSettings &settings) {
  const auto bad = [&](const std::string &why) {
    return tl::unexpected(fmt::format("the Workload API at {} {}", settings.socket, why));
  };
  rpc::quiet_grpc();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (settings.socket.size() >= sizeof address.sun_path) return bad("has too long a path");
  settings.socket.copy(address.sun_path, sizeof address.sun_path - 1);
  policy::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0) {
    return bad(fmt::format("cannot be reached: {}", std::strerror(errno)));
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return bad(fmt::format("cannot be asked who it is: {}", std::strerror(errno)));
  }
  if (peer.uid != 0 && (peer.uid != ::geteuid() || may_be_anybody(peer.uid)) &&
      std::ranges::count(settings.owners, peer.uid) == 0) {
    return bad(
        fmt::format("is not trusted: user {} listens there, neither root nor this user; "
                    "name its owner with --config-owner if that is right",
                    peer.uid));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessage);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomInsecureChannelFromFd("workload-api", fd.release(), arguments);
}

void prepare_call(grpc::ClientContext &context) {
  context.AddMetadata("workload.spiffe.io", "true");
}

std::string status_text(const grpc::Status &status) {
  static constexpr const char *kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto code = static_cast<std::size_t>(status.error_code());
  const char *const name = code < std::size(kNames) ? kNames[code] : "an unknown status";
  if (status.ok()) return "ended the stream";
  return fmt::format("says {}{}{}", name, status.error_message().empty() ? "" : ": ",
                     printable(status.error_message()));
}

UpstreamStream::UpstreamStream(std::chrono::milliseconds pause, Read read)
    : pause_(pause), read_(std::move(read)), thread_([this] { run(); }) {}

UpstreamStream::~UpstreamStream() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    if (current_ != nullptr) current_->TryCancel();
  }
  wake_.notify_one();
  thread_.join();
}

void UpstreamStream::retry() {
  {
    const std::lock_guard lock(mutex_);
    retrying_ = true;
  }
  wake_.notify_one();
}

void UpstreamStream::run() {
  std::chrono::milliseconds pause = pause_;
  for (;;) {
    grpc::ClientContext context;
    prepare_call(context);
    {
      const std::lock_guard lock(mutex_);
      if (ending_) return;
      retrying_ = false;  // what comes while it is tried may be what this attempt lacks
      current_ = &context;
    }
    const End end = read_(context);
    {
      const std::lock_guard lock(mutex_);
      current_ = nullptr;
      if (ending_) return;
    }
    if (end.for_good) return;
    if (end.brought_something) pause = pause_;
    switch (wait(with_jitter(pause))) {
      case Waited::ending:
        return;
      case Waited::told:
        pause = pause_;
        break;
      case Waited::all:
        pause = std::min(pause * 2, pause_ * kLongestPause);
    }
  }
}

UpstreamStream::Waited UpstreamStream::wait(std::chrono::milliseconds pause) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, pause, [this] { return ending_ || retrying_; });
  if (ending_) return Waited::ending;
  return retrying_ ? Waited::told : Waited::all;
}

}  // namespace inlay::identity::agent
