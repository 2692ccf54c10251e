#include "identity/agent/authority_link.h"

#include <fmt/format.h>
#include <grpcpp/create_channel_posix.h>

#include <chrono>

#include "identity/agent/upstream.h"
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/rpc/grpc_quiet.h"
#include "identity/verify.h"

namespace inlay::identity::agent {
namespace {

constexpr int kSeconds = 15;          // for the connection, and for the answer
constexpr int kMaxMessage = 4 << 20;  // more than thousands of entries

using Failure = tl::unexpected<AuthorityError>;

Failure failed(std::string message, grpc::StatusCode code = grpc::StatusCode::UNAVAILABLE) {
  return Failure(AuthorityError{std::move(message), code});
}

BundleSet bundles_of(const Node &node) {
  BundleSet out;
  auto &authorities = out[std::string(node.svid.id.trust_domain())].authorities;
  for (const std::string &der : node.bundle.x509_authorities) {
    X509Ptr certificate =
        certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
    if (certificate) authorities.push_back(std::move(certificate));
  }
  return out;
}

template <typename Chain>
tl::expected<X509Svid, AuthorityError> svid_of(const Chain &chain, PkeyPtr key) {
  auto svid = parse_svid_without_key({chain.begin(), chain.end()});
  if (!svid) {
    return failed("the authority sent no usable certificate: " + svid.error().message,
                  grpc::StatusCode::INTERNAL);
  }
  if (X509_check_private_key(svid->chain.front().get(), key.get()) != 1) {
    return failed("the authority sent a certificate for another key", grpc::StatusCode::INTERNAL);
  }
  svid->key = std::move(key);
  return std::move(*svid);
}

// One call with a deadline. The error has the authority's own words.
template <typename Request, typename Response>
tl::expected<Response, AuthorityError> call(const std::string &where,
                                            enrolment::Enrolment::Stub &stub,
                                            grpc::Status (enrolment::Enrolment::Stub::*method)(
                                                grpc::ClientContext *, const Request &, Response *),
                                            const Request &request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(kSeconds));
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) {
    return failed(fmt::format("the authority at {} {}", where, status_text(status)),
                  status.error_code());
  }
  return response;
}

tl::expected<Node, AuthorityError> node_of(const std::string &where, const rpc::Pin &pin,
                                           const enrolment::NodeSvid &answer, PkeyPtr key) {
  auto svid = svid_of(answer.chain(), std::move(key));
  if (!svid) return tl::unexpected(svid.error());
  auto bundle = parse_trust_domain_bundle(answer.bundle());
  if (!bundle) {
    return failed("the authority sent no usable trust bundle: " + bundle.error().message,
                  grpc::StatusCode::INTERNAL);
  }
  return Node{where, pin, std::move(*bundle), std::move(*svid)};
}

}  // namespace

tl::expected<std::unique_ptr<enrolment::Enrolment::Stub>, AuthorityError> AuthorityLink::open(
    const std::string &where, const rpc::AuthorityTrust &trust, const X509Svid *own,
    std::string *trust_domain) {
  rpc::quiet_grpc();
  auto dialled = client_.dial(where, trust, own, std::time(nullptr), kSeconds);
  if (!dialled) return failed(dialled.error());
  if (trust_domain != nullptr) *trust_domain = dialled->trust_domain;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessage);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return enrolment::Enrolment::NewStub(
      grpc::CreateCustomInsecureChannelFromFd("authority", dialled->fd.release(), arguments));
}

tl::expected<std::unique_ptr<enrolment::Enrolment::Stub>, AuthorityError> AuthorityLink::connect(
    const Node &node) {
  const BundleSet bundles = bundles_of(node);
  return open(node.authority, {std::nullopt, &bundles, std::string(node.svid.id.trust_domain())},
              &node.svid);
}

tl::expected<Node, AuthorityError> AuthorityLink::enroll(const std::string &where,
                                                         const EnrolmentToken &token,
                                                         const std::string &hostname, PkeyPtr key) {
  std::string trust_domain;
  auto stub = open(where, {token.pin, nullptr, ""}, nullptr, &trust_domain);
  if (!stub) return tl::unexpected(stub.error());
  if (!key) key = make_node_key();
  enrolment::EnrollRequest request;
  request.set_token_secret(token.secret.data(), token.secret.size());
  request.set_csr(key ? make_csr(key.get()) : "");
  request.set_hostname(hostname);
  auto answer = call(where, **stub, &enrolment::Enrolment::Stub::Enroll, request);
  if (!answer) return tl::unexpected(answer.error());
  auto node = node_of(where, token.pin, *answer, std::move(key));
  if (node && node->svid.id.trust_domain() != trust_domain) {
    return failed("the authority sent an SVID of another trust domain than its own",
                  grpc::StatusCode::INTERNAL);
  }
  return node;
}

tl::expected<Node, AuthorityError> AuthorityLink::renew(const Node &node) {
  auto stub = connect(node);
  if (!stub) return tl::unexpected(stub.error());
  PkeyPtr key = make_node_key();
  enrolment::RenewRequest request;
  request.set_csr(key ? make_csr(key.get()) : "");
  auto answer = call(node.authority, **stub, &enrolment::Enrolment::Stub::Renew, request);
  if (!answer) return tl::unexpected(answer.error());
  return node_of(node.authority, node.pin, *answer, std::move(key));
}

// The bundle may be as old as the SVID: after a long outage the pin is what is left to know the
// authority by. Either will do.
tl::expected<Node, AuthorityError> AuthorityLink::rejoin(const Node &node) {
  const BundleSet bundles = bundles_of(node);
  const std::string trust_domain(node.svid.id.trust_domain());
  auto stub = open(node.authority, {std::nullopt, &bundles, trust_domain}, nullptr);
  if (!stub) stub = open(node.authority, {node.pin, nullptr, trust_domain}, nullptr);
  if (!stub) return tl::unexpected(stub.error());
  enrolment::RejoinRequest request;
  request.set_csr(make_csr(node.svid.key.get()));
  request.set_node(node.svid.id.uri());
  auto answer = call(node.authority, **stub, &enrolment::Enrolment::Stub::Rejoin, request);
  if (!answer) return tl::unexpected(answer.error());
  PkeyPtr key(node.svid.key.get());
  EVP_PKEY_up_ref(key.get());
  return node_of(node.authority, node.pin, *answer, std::move(key));
}

tl::expected<X509Svid, AuthorityError> AuthorityLink::sign_x509(const Node &node,
                                                                const SpiffeId &id) {
  auto stub = connect(node);
  if (!stub) return tl::unexpected(stub.error());
  PkeyPtr key = make_node_key();
  enrolment::SignX509Request request;
  request.set_spiffe_id(id.uri());
  request.set_csr(key ? make_csr(key.get()) : "");
  auto answer = call(node.authority, **stub, &enrolment::Enrolment::Stub::SignX509, request);
  if (!answer) return tl::unexpected(answer.error());
  return svid_of(answer->chain(), std::move(key));
}

tl::expected<enrolment::JwtSvid, AuthorityError> AuthorityLink::sign_jwt(
    const Node &node, const SpiffeId &id, const std::vector<std::string> &audience) {
  auto stub = connect(node);
  if (!stub) return tl::unexpected(stub.error());
  enrolment::SignJwtRequest request;
  request.set_spiffe_id(id.uri());
  for (const std::string &one : audience) request.add_audience(one);
  return call(node.authority, **stub, &enrolment::Enrolment::Stub::SignJwt, request);
}

}  // namespace inlay::identity::agent
