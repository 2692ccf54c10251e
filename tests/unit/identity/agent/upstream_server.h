// A SPIFFE Workload API at a socket that says what a test wants.
#pragma once

#include <doctest/doctest.h>
#include <grpcpp/grpcpp.h>
#include <workload.grpc.pb.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "api_server.h"

namespace inlay::identity::agent::testing {

class UpstreamServer : public SpiffeWorkloadAPI::Service {
 public:
  // Each stream sends `message`, then stays open; or ends with the status, at once or after it.
  template <typename Message>
  struct Script {
    std::optional<Message> message;
    std::optional<grpc::Status> status;
    int version = 0;
  };

  explicit UpstreamServer(const std::string &path) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
    builder.SetMaxSendMessageSize(-1);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    REQUIRE(server_);
  }
  ~UpstreamServer() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    server_->Shutdown();
  }

  void say(Script<X509SVIDResponse> script) { set(svids_, std::move(script)); }
  void say(Script<X509BundlesResponse> script) { set(bundles_, std::move(script)); }
  void say(Script<JWTBundlesResponse> script) { set(jwt_bundles_, std::move(script)); }
  void say(Script<JWTSVIDResponse> script) { set(jwt_, std::move(script)); }

  void refuse_svids(grpc::Status status) {
    say(Script<X509SVIDResponse>{std::nullopt, std::move(status), 0});
  }

  // How many streams of SVIDs were opened.
  int opened() {
    const std::lock_guard lock(mutex_);
    return opened_;
  }
  bool all_had_the_metadata() {
    const std::lock_guard lock(mutex_);
    return all_had_the_metadata_;
  }

 private:
  template <typename Message>
  void set(Script<Message> &to, Script<Message> script) {
    {
      const std::lock_guard lock(mutex_);
      script.version = to.version + 1;
      to = std::move(script);
    }
    changed_.notify_all();
  }
  void look_at(const grpc::ServerContext &context) {
    const auto found = context.client_metadata().find("workload.spiffe.io");
    if (found == context.client_metadata().end() || found->second != "true") {
      all_had_the_metadata_ = false;
    }
  }
  template <typename Message>
  grpc::Status play(const grpc::ServerContext &context, const Script<Message> &script,
                    grpc::ServerWriter<Message> &writer) {
    std::unique_lock lock(mutex_);
    look_at(context);
    for (;;) {
      const Script<Message> now = script;
      lock.unlock();
      if (now.message && !writer.Write(*now.message)) return grpc::Status::CANCELLED;
      lock.lock();
      if (now.status) return *now.status;
      changed_.wait(lock, [&] { return ending_ || script.version != now.version; });
      if (ending_) return grpc::Status::CANCELLED;
    }
  }

  grpc::Status FetchX509SVID(grpc::ServerContext *context, const X509SVIDRequest *,
                             grpc::ServerWriter<X509SVIDResponse> *writer) override {
    {
      const std::lock_guard lock(mutex_);
      ++opened_;
    }
    return play(*context, svids_, *writer);
  }
  grpc::Status FetchX509Bundles(grpc::ServerContext *context, const X509BundlesRequest *,
                                grpc::ServerWriter<X509BundlesResponse> *writer) override {
    return play(*context, bundles_, *writer);
  }
  grpc::Status FetchJWTBundles(grpc::ServerContext *context, const JWTBundlesRequest *,
                               grpc::ServerWriter<JWTBundlesResponse> *writer) override {
    return play(*context, jwt_bundles_, *writer);
  }
  grpc::Status FetchJWTSVID(grpc::ServerContext *context, const JWTSVIDRequest *,
                            JWTSVIDResponse *response) override {
    const std::lock_guard lock(mutex_);
    look_at(*context);
    if (jwt_.message) *response = *jwt_.message;
    return jwt_.status.value_or(grpc::Status::OK);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  int opened_ = 0;
  bool all_had_the_metadata_ = true;
  Script<X509SVIDResponse> svids_;
  Script<X509BundlesResponse> bundles_;
  Script<JWTBundlesResponse> jwt_bundles_;
  Script<JWTSVIDResponse> jwt_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace inlay::identity::agent::testing
