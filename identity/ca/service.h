// What inlay-ca answers to agents (enrolment.proto), whoever they are: each call is judged by its
// connection's certificate, by the store as it is at that moment, and by the clock.
#pragma once

#include <enrolment.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <ctime>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/ca/audit_log.h"
#include "identity/ca/in_force.h"
#include "identity/ca/store.h"
#include "identity/rpc/rate_limit.h"
#include "identity/rpc/tls_server.h"

namespace inlay::identity::ca {

namespace enrolment = inlay::enrolment::v1;

struct ServiceSettings {
  std::string trust_domain;
  std::time_t node_lifetime = 86400;  // seconds, as the next two
  std::time_t svid_lifetime = 3600;
  std::time_t jwt_lifetime = 300;
};

struct ServiceHost {
  Store &store;
  std::function<std::shared_ptr<const InForce>()> in_force;
  std::function<std::shared_ptr<const rpc::PeerIdentity>(const std::string &grpc_peer)> peer;
  std::function<void(const AuditRecord &)> audit;
  std::function<std::time_t()> now;
};

// Watch is served by callbacks: a stream costs no thread.
class EnrolmentService final
    : public enrolment::Enrolment::WithCallbackMethod_Watch<enrolment::Enrolment::Service> {
 public:
  EnrolmentService(ServiceHost host, ServiceSettings settings);
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
  struct Caller {
    std::shared_ptr<const rpc::PeerIdentity> peer;
    std::string node;
  };

  tl::expected<Caller, grpc::Status> caller(const std::string &grpc_peer);
  grpc::Status check(const Caller &caller);
  tl::expected<enrolment::NodeState, grpc::Status> state_of(const std::string &node);
  grpc::Status issue_node(const std::string &node, EVP_PKEY *key, std::string_view by,
                          std::string_view event, std::string_view address,
                          enrolment::NodeSvid *answer);
  grpc::Status refuse(const AuditRecord &event, grpc::Status status);
  std::string name_of(const std::string &node) const;
  void forget(Stream *stream);

  const ServiceHost host_;
  const ServiceSettings settings_;
  // Each is far above what an agent needs: a fleet behind one address enrols at 20 a second.
  rpc::RateLimit<std::string> enrolments_{20, 200};  // of an address
  rpc::RateLimit<std::string> requests_{200, 2000};  // of a node

  std::mutex mutex_;
  std::map<Stream *, std::shared_ptr<Stream>> streams_;
};

}  // namespace inlay::identity::ca
