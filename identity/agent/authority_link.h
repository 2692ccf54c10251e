// What the agent of an enrolled machine asks of inlay-ca (enrolment.proto), one call at a time.
#pragma once

#include <enrolment.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/agent/node_folder.h"
#include "identity/enrolment_token.h"
#include "identity/rpc/tls_client.h"

namespace inlay::identity::agent {

namespace enrolment = inlay::enrolment::v1;

struct AuthorityError {
  std::string message;                                    // one line: what, where, what to do
  grpc::StatusCode code = grpc::StatusCode::UNAVAILABLE;  // UNAVAILABLE also when it never answered
};

class AuthorityLink {
 public:
  // Spends the token: the node that comes of it. `where` is HOST:PORT; `key` is the node's, a new
  // one when it is null. The same token with the same key gives the same node again.
  tl::expected<Node, AuthorityError> enroll(const std::string &where, const EnrolmentToken &token,
                                            const std::string &hostname, PkeyPtr key = nullptr);
  // A new key and SVID, by the one that `node` has.
  tl::expected<Node, AuthorityError> renew(const Node &node);
  // The same when that has ended: with its key, and only when an administrator approved.
  tl::expected<Node, AuthorityError> rejoin(const Node &node);
  tl::expected<X509Svid, AuthorityError> sign_x509(const Node &node, const SpiffeId &id);
  tl::expected<enrolment::JwtSvid, AuthorityError> sign_jwt(
      const Node &node, const SpiffeId &id, const std::vector<std::string> &audience);
  // For Watch, which stays open.
  tl::expected<std::unique_ptr<enrolment::Enrolment::Stub>, AuthorityError> connect(
      const Node &node);

 private:
  tl::expected<std::unique_ptr<enrolment::Enrolment::Stub>, AuthorityError> open(
      const std::string &where, const rpc::AuthorityTrust &trust, const X509Svid *own,
      std::string *trust_domain = nullptr);

  rpc::TlsClient client_;
};

}  // namespace inlay::identity::agent
