// What inlay-ca answers to agents (enrolment.proto): issuing.h by gRPC, and the streams on which
// nodes hear what they have.
#pragma once

#include <enrolment.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tl/expected.hpp>

#include "identity/ca/issuing.h"

namespace inlay::identity::ca {

namespace enrolment = inlay::enrolment::v1;

// Watch is served by callbacks: a stream costs no thread.
class EnrolmentService final
    : public enrolment::Enrolment::WithCallbackMethod_Watch<enrolment::Enrolment::Service> {
 public:
  // Who is behind a call, by gRPC's name of its connection; null when it is gone.
  using FindPeer =
      std::function<std::shared_ptr<const rpc::PeerIdentity>(const std::string &grpc_peer)>;
  EnrolmentService(Issuing &issuing, FindPeer peer);
  ~EnrolmentService() override;

  // The store has changed, or a minute has passed: streams get what is new for them, and end where
  // their node may have nothing any more.
  void refresh();

  grpc::Status Enroll(grpc::ServerContext *context, const enrolment::EnrollRequest *request,
                      enrolment::NodeSvid *answer) override;
  grpc::Status Renew(grpc::ServerContext *context, const enrolment::RenewRequest *request,
                     enrolment::NodeSvid *answer) override;
  grpc::Status Rejoin(grpc::ServerContext *context, const enrolment::RejoinRequest *request,
                      enrolment::NodeSvid *answer) override;
  grpc::Status SignX509(grpc::ServerContext *context, const enrolment::SignX509Request *request,
                        enrolment::X509Chain *answer) override;
  grpc::Status SignJwt(grpc::ServerContext *context, const enrolment::SignJwtRequest *request,
                       enrolment::JwtSvid *answer) override;
  grpc::ServerWriteReactor<enrolment::NodeState> *Watch(
      grpc::CallbackServerContext *context, const enrolment::WatchRequest *request) override;

 private:
  class Stream;

  tl::expected<enrolment::NodeState, grpc::Status> state_of(const std::string &node);
  grpc::Status give(Issued<Chain> issued, enrolment::NodeSvid *answer);
  void forget(Stream *stream);

  Issuing &issuing_;
  const FindPeer peer_;
  std::mutex mutex_;
  std::map<Stream *, std::shared_ptr<Stream>> streams_;
};

}  // namespace inlay::identity::ca
