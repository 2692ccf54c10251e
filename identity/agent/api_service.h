// The five methods of the Workload API, for the connections of one gRPC server.
#pragma once

#include <workload.grpc.pb.h>

#include <mutex>
#include <string>
#include <unordered_set>

#include "identity/agent/api_call.h"
#include "identity/agent/api_stream.h"

namespace inlay::identity::agent {

class ApiService final : public SpiffeWorkloadAPI::WithRawCallbackMethod_FetchX509SVID<
                             SpiffeWorkloadAPI::WithRawCallbackMethod_FetchX509Bundles<
                                 SpiffeWorkloadAPI::WithRawCallbackMethod_FetchJWTBundles<
                                     SpiffeWorkloadAPI::WithCallbackMethod_FetchJWTSVID<
                                         SpiffeWorkloadAPI::WithCallbackMethod_ValidateJWTSVID<
                                             SpiffeWorkloadAPI::Service>>>>> {
 public:
  explicit ApiService(ApiShared &shared) : shared_(shared) {}

  // All open streams, one after the other.
  void refresh_streams();

 private:
  using Stream = grpc::ServerWriteReactor<grpc::ByteBuffer>;
  using Context = grpc::CallbackServerContext;

  Stream *FetchX509SVID(Context *context, const grpc::ByteBuffer *) override;
  Stream *FetchX509Bundles(Context *context, const grpc::ByteBuffer *) override;
  Stream *FetchJWTBundles(Context *context, const grpc::ByteBuffer *) override;
  grpc::ServerUnaryReactor *FetchJWTSVID(Context *context, const JWTSVIDRequest *request,
                                         JWTSVIDResponse *response) override;
  grpc::ServerUnaryReactor *ValidateJWTSVID(Context *context, const ValidateJWTSVIDRequest *request,
                                            ValidateJWTSVIDResponse *response) override;

  Stream *open(const Context &context, std::string_view method, ApiStream::Make make);
  grpc::Status fetch_jwt_svid(const ApiCall &call, const JWTSVIDRequest &request,
                              JWTSVIDResponse &response) const;
  grpc::Status validate_jwt_svid(const ApiCall &call, const ValidateJWTSVIDRequest &request,
                                 ValidateJWTSVIDResponse &response) const;

  ApiShared &shared_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<ApiStream>> streams_;
};

}  // namespace inlay::identity::agent
