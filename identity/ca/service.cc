#include "identity/ca/service.h"

#include <fmt/format.h>

#include <set>
#include <utility>
#include <vector>

#include "identity/ca/service_stream.h"

namespace inlay::identity::ca {
namespace {

using grpc::Status;
using grpc::StatusCode;

Status status_of(const Refused &refused) {
  switch (refused.refusal) {
    case Refusal::invalid:
      return {StatusCode::INVALID_ARGUMENT, refused.message};
    case Refusal::unauthenticated:
      return {StatusCode::UNAUTHENTICATED, refused.message};
    case Refusal::denied:
      return {StatusCode::PERMISSION_DENIED, refused.message};
    case Refusal::exhausted:
      return {StatusCode::RESOURCE_EXHAUSTED, refused.message};
    case Refusal::unavailable:
      return {StatusCode::UNAVAILABLE, refused.message};
    case Refusal::internal:
      break;
  }
  return {StatusCode::INTERNAL, refused.message};
}

}  // namespace

EnrolmentService::EnrolmentService(Issuing &issuing, FindPeer peer)
    : issuing_(issuing), peer_(std::move(peer)) {}

EnrolmentService::~EnrolmentService() = default;

// A node's own SVID goes with the bundle that it is judged by.
Status EnrolmentService::give(Issued<Chain> issued, enrolment::NodeSvid *answer) {
  if (!issued) return status_of(issued.error());
  for (std::string &der : *issued) *answer->add_chain() = std::move(der);
  answer->set_bundle(issuing_.host().in_force()->bundles.at(issuing_.settings().trust_domain));
  return Status::OK;
}

Status EnrolmentService::Enroll(grpc::ServerContext *context,
                                const enrolment::EnrollRequest *request,
                                enrolment::NodeSvid *answer) {
  const auto peer = peer_(context->peer());
  return give(issuing_.enroll({.secret = request->token_secret(),
                               .csr = request->csr(),
                               .hostname = request->hostname()},
                              peer ? peer->address : ""),
              answer);
}

Status EnrolmentService::Renew(grpc::ServerContext *context, const enrolment::RenewRequest *request,
                               enrolment::NodeSvid *answer) {
  const auto who = issuing_.caller(peer_(context->peer()));
  return who ? give(issuing_.renew(*who, request->csr()), answer) : status_of(who.error());
}

Status EnrolmentService::Rejoin(grpc::ServerContext *context,
                                const enrolment::RejoinRequest *request,
                                enrolment::NodeSvid *answer) {
  const auto peer = peer_(context->peer());
  return give(issuing_.rejoin(request->node(), request->csr(), peer ? peer->address : ""), answer);
}

Status EnrolmentService::SignX509(grpc::ServerContext *context,
                                  const enrolment::SignX509Request *request,
                                  enrolment::X509Chain *answer) {
  const auto who = issuing_.caller(peer_(context->peer()));
  if (!who) return status_of(who.error());
  auto issued = issuing_.sign(*who, request->spiffe_id(), request->csr());
  if (!issued) return status_of(issued.error());
  for (std::string &der : *issued) *answer->add_chain() = std::move(der);
  return Status::OK;
}

Status EnrolmentService::SignJwt(grpc::ServerContext *context,
                                 const enrolment::SignJwtRequest *request,
                                 enrolment::JwtSvid *answer) {
  const auto who = issuing_.caller(peer_(context->peer()));
  if (!who) return status_of(who.error());
  auto issued = issuing_.sign_jwt(*who, request->spiffe_id(),
                                  {request->audience().begin(), request->audience().end()});
  if (!issued) return status_of(issued.error());
  answer->set_token(std::move(issued->token));
  answer->set_not_after(issued->not_after);
  return Status::OK;
}

tl::expected<enrolment::NodeState, Status> EnrolmentService::state_of(const std::string &node) {
  const auto entries = issuing_.host().store.entries_of(node);
  if (!entries) {
    return tl::unexpected(
        Status(StatusCode::UNAVAILABLE, "the authority cannot reach its database; come again"));
  }
  const auto in_force = issuing_.host().in_force();
  enrolment::NodeState state;
  state.set_generation(in_force->signer.generation());
  std::set<std::string> domains{issuing_.settings().trust_domain};
  for (const Entry &entry : *entries) {
    enrolment::Entry &out = *state.add_entries();
    out.set_id(entry.id);
    out.set_spiffe_id(entry.spiffe_id);
    for (const std::string &selector : entry.selectors) out.add_selectors(selector);
    out.set_policy(entry.policy);
    out.set_hint(entry.hint);
    out.set_workload_api(entry.workload_api);
    out.set_refuse_traced(entry.refuse_traced);
    domains.insert(entry.federates_with.begin(), entry.federates_with.end());
  }
  for (const std::string &domain : domains) {
    const auto bundle = in_force->bundles.find(domain);
    if (bundle != in_force->bundles.end()) (*state.mutable_bundles())[domain] = bundle->second;
  }
  for (const std::string &crl : in_force->crls) state.add_crls(crl);
  for (const auto &root : in_force->signer.tainted()) state.add_tainted(root.data(), root.size());
  return state;
}

// --- Watch

class EnrolmentService::Stream final : public NodeStream {
 public:
  Stream(EnrolmentService &service, Caller caller)
      : service_(service), caller_(std::move(caller)) {}

 private:
  tl::expected<enrolment::NodeState, Status> now() override {
    if (auto good = service_.issuing_.check(caller_); !good) {
      return tl::unexpected(status_of(good.error()));
    }
    return service_.state_of(caller_.node);
  }
  void done() override { service_.forget(this); }

  EnrolmentService &service_;
  const Caller caller_;
};

grpc::ServerWriteReactor<enrolment::NodeState> *EnrolmentService::Watch(
    grpc::CallbackServerContext *context, const enrolment::WatchRequest *) {
  auto who = issuing_.caller(peer_(context->peer()));
  if (!who) return refused_node_stream(status_of(who.error()));
  const auto stream = std::make_shared<Stream>(*this, std::move(*who));
  {
    const std::lock_guard lock(mutex_);
    streams_.emplace(stream.get(), stream);
  }
  stream->refresh();
  return stream.get();
}

void EnrolmentService::refresh() {
  std::vector<std::shared_ptr<Stream>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto &[key, stream] : streams_) all.push_back(stream);
  }
  for (const auto &stream : all) stream->refresh();
}

void EnrolmentService::forget(Stream *stream) {
  std::shared_ptr<Stream> last;
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  last = std::move(found->second);  // ends after the lock is given back
  streams_.erase(found);
}

}  // namespace inlay::identity::ca
