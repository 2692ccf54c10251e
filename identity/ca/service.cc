#include "identity/ca/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "identity/ca/service_stream.h"
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/enrolment_token.h"

namespace inlay::identity::ca {
namespace {

constexpr std::string_view kNodePrefix = "/inlay/node/";
constexpr int kMostAudience = 16;

using grpc::Status;
using grpc::StatusCode;

std::string_view code_name(StatusCode code) {
  switch (code) {
    case StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    default:
      return "INTERNAL";
  }
}

// What a caller is told of the store's troubles is no more than that: the audit log has the rest.
Status status_of(const StoreError &error, StatusCode refused) {
  switch (error.problem) {
    case StoreProblem::refused:
    case StoreProblem::not_found:
      return {refused, error.message};
    case StoreProblem::unavailable:
      return {StatusCode::UNAVAILABLE, "the authority cannot reach its database; come again"};
    default:
      return {StatusCode::INTERNAL, "the authority has a problem of its own; its log says which"};
  }
}

std::string digest_of(EVP_PKEY *key) {
  unsigned char *der = nullptr;
  const int length = i2d_PUBKEY(key, &der);
  if (length <= 0) return "";
  std::string digest(32, '\0');
  EVP_Q_digest(library_context(), "SHA256", nullptr, der, static_cast<std::size_t>(length),
               reinterpret_cast<unsigned char *>(digest.data()), nullptr);
  OPENSSL_free(der);
  return digest;
}

// The address without its port.
std::string host_of(const std::string &address) { return address.substr(0, address.rfind(':')); }

std::int64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

EnrolmentService::EnrolmentService(ServiceHost host, ServiceSettings settings)
    : host_(std::move(host)), settings_(std::move(settings)) {}

EnrolmentService::~EnrolmentService() = default;

std::string EnrolmentService::name_of(const std::string &node) const {
  return fmt::format("spiffe://{}{}{}", settings_.trust_domain, kNodePrefix, node);
}

Status EnrolmentService::refuse(const AuditRecord &event, Status status) {
  AuditRecord whole = event;
  whole.event = "refused";
  whole.reason = code_name(status.error_code());
  const std::string told = status.error_message();
  if (whole.detail.empty()) whole.detail = told;
  host_.audit(whole);
  return status;
}

tl::expected<EnrolmentService::Caller, Status> EnrolmentService::caller(
    const std::string &grpc_peer) {
  const auto fail = [&](const Caller &who, StatusCode code, std::string message) {
    return tl::unexpected(refuse({.event = "refused",
                                  .node = who.node,
                                  .address = who.peer ? who.peer->address : "",
                                  .serial = who.peer ? who.peer->serial : ""},
                                 {code, std::move(message)}));
  };
  Caller who{host_.peer(grpc_peer), ""};
  if (!who.peer) return fail(who, StatusCode::UNAVAILABLE, "the connection is gone");
  if (!who.peer->problem.empty()) {
    return fail(who, StatusCode::UNAUTHENTICATED,
                "the certificate of this node is refused: " + who.peer->problem);
  }
  if (!who.peer->id) {
    return fail(who, StatusCode::UNAUTHENTICATED,
                "this needs a node's own SVID; enrol the machine with inlay enroll");
  }
  if (!who.peer->id->path().starts_with(kNodePrefix)) {
    return fail(who, StatusCode::PERMISSION_DENIED,
                fmt::format("{} is a workload, not a node", who.peer->id->uri()));
  }
  who.node = who.peer->id->path().substr(kNodePrefix.size());
  if (Status status = check(who); !status.ok()) {
    return fail(who, status.error_code(), status.error_message());
  }
  if (!requests_.take(who.node, monotonic_ns())) {
    return fail(who, StatusCode::RESOURCE_EXHAUSTED, "too many requests of this node; come again");
  }
  return who;
}

// A connection may outlive what it was opened with.
Status EnrolmentService::check(const Caller &caller) {
  const std::time_t now = host_.now();
  if (caller.peer->not_after <= now) {
    return {StatusCode::UNAUTHENTICATED,
            fmt::format("the node's SVID ended at {}, the clock here says {}",
                        time_text(caller.peer->not_after), time_text(now))};
  }
  const auto node = host_.store.check_node(caller.node, caller.peer->serial, now);
  if (!node) return status_of(node.error(), StatusCode::UNAUTHENTICATED);
  return Status::OK;
}

// Recorded before it is handed out: nothing that is out there is unknown here.
Status EnrolmentService::issue_node(const std::string &node, EVP_PKEY *key, std::string_view by,
                                    std::string_view event, std::string_view address,
                                    enrolment::NodeSvid *answer) {
  const auto in_force = host_.in_force();
  const std::string uri = name_of(node);
  const AuditRecord what{.event = event, .node = node, .address = address, .spiffe_id = uri};
  const auto id = SpiffeId::parse(uri);
  if (!id) return refuse(what, {StatusCode::INTERNAL, "the node's name makes no SPIFFE ID"});
  auto made = in_force->signer.sign(*id, key, host_.now(), settings_.node_lifetime);
  if (!made) {
    AuditRecord why = what;
    why.detail = made.error();
    return refuse(why, {StatusCode::INTERNAL, "the authority cannot sign; its log says why"});
  }
  made->issuance.node = node;
  if (auto kept = host_.store.record(made->issuance, by, true); !kept) {
    AuditRecord why = what;
    why.detail = kept.error().message;
    return refuse(why, status_of(kept.error(), StatusCode::UNAUTHENTICATED));
  }
  for (std::string &der : made->chain) *answer->add_chain() = std::move(der);
  answer->set_bundle(in_force->bundles.at(settings_.trust_domain));
  AuditRecord done = what;
  done.serial = made->issuance.serial;
  host_.audit(done);
  return Status::OK;
}

Status EnrolmentService::Enroll(grpc::ServerContext *context,
                                const enrolment::EnrollRequest *request,
                                enrolment::NodeSvid *answer) {
  const auto peer = host_.peer(context->peer());
  const std::string address = peer ? peer->address : "";
  AuditRecord what{.event = "enrolled", .address = address};
  if (!enrolments_.take(host_of(address), monotonic_ns())) {
    return refuse(what, {StatusCode::RESOURCE_EXHAUSTED,
                         "too many machines enrol from this address at once; come again"});
  }
  const auto key = public_key_of_csr(request->csr());
  if (!key) return refuse(what, {StatusCode::INVALID_ARGUMENT, key.error()});
  const std::string hostname = printable(request->hostname().substr(0, 255));
  const auto enrolled =
      host_.store.enroll({.secret_digest = digest_of_secret(request->token_secret()),
                          .key_digest = digest_of(key->get()),
                          .hostname = hostname,
                          .address = host_of(address),
                          .now = host_.now()});
  if (!enrolled) {
    what.detail = enrolled.error().message;
    return refuse(what, status_of(enrolled.error(), StatusCode::PERMISSION_DENIED));
  }
  if (!*enrolled) {
    const std::string detail = "token " + std::string(name(enrolled->error()));
    what.detail = detail;
    // One answer for all: who guesses learns nothing from it.
    return refuse(what, {StatusCode::PERMISSION_DENIED,
                         "does not take this token: it is unknown, used, or past its time; make "
                         "another with inlay ca token"});
  }
  return issue_node((*enrolled)->node, key->get(), "", "enrolled", address, answer);
}

Status EnrolmentService::Renew(grpc::ServerContext *context, const enrolment::RenewRequest *request,
                               enrolment::NodeSvid *answer) {
  const auto who = caller(context->peer());
  if (!who) return who.error();
  const auto key = public_key_of_csr(request->csr());
  if (!key) {
    return refuse({.event = "renewed", .node = who->node, .address = who->peer->address},
                  {StatusCode::INVALID_ARGUMENT, key.error()});
  }
  return issue_node(who->node, key->get(), who->peer->serial, "renewed", who->peer->address,
                    answer);
}

Status EnrolmentService::Rejoin(grpc::ServerContext *context,
                                const enrolment::RejoinRequest *request,
                                enrolment::NodeSvid *answer) {
  const auto peer = host_.peer(context->peer());
  const std::string address = peer ? peer->address : "";
  const std::string asked = printable(request->node());
  const AuditRecord what{.event = "rejoined", .address = address, .spiffe_id = asked};
  if (!enrolments_.take(host_of(address), monotonic_ns())) {
    return refuse(what, {StatusCode::RESOURCE_EXHAUSTED, "too many requests; come again"});
  }
  const auto key = public_key_of_csr(request->csr());
  if (!key) return refuse(what, {StatusCode::INVALID_ARGUMENT, key.error()});
  const std::string prefix = name_of("");
  if (!request->node().starts_with(prefix)) {
    return refuse(what, {StatusCode::INVALID_ARGUMENT, "that is no node of this authority"});
  }
  const std::string node = request->node().substr(prefix.size());
  const auto joined = host_.store.rejoin(node, digest_of(key->get()), host_.now());
  if (!joined) return refuse(what, status_of(joined.error(), StatusCode::PERMISSION_DENIED));
  if (!*joined) {
    return refuse(what, {StatusCode::PERMISSION_DENIED,
                         fmt::format("waits for an administrator to let this node in again: inlay "
                                     "ca agents approve {}",
                                     printable(node))});
  }
  return issue_node(node, key->get(), "", "rejoined", address, answer);
}

Status EnrolmentService::SignX509(grpc::ServerContext *context,
                                  const enrolment::SignX509Request *request,
                                  enrolment::X509Chain *answer) {
  const auto who = caller(context->peer());
  if (!who) return who.error();
  const std::string asked = printable(request->spiffe_id());
  AuditRecord what{
      .event = "issued", .node = who->node, .address = who->peer->address, .spiffe_id = asked};
  const auto key = public_key_of_csr(request->csr());
  if (!key) return refuse(what, {StatusCode::INVALID_ARGUMENT, key.error()});
  const auto entries = host_.store.entries_of(who->node);
  if (!entries) return refuse(what, status_of(entries.error(), StatusCode::PERMISSION_DENIED));
  const auto entry = std::ranges::find(*entries, request->spiffe_id(), &Entry::spiffe_id);
  const auto id = SpiffeId::parse(request->spiffe_id());
  if (entry == entries->end() || !id) {
    return refuse(what, {StatusCode::PERMISSION_DENIED,
                         fmt::format("has granted {} to no workload of this node; inlay ca entry "
                                     "add does",
                                     asked)});
  }
  const std::time_t lifetime = entry->svid_ttl != 0 ? entry->svid_ttl : settings_.svid_lifetime;
  auto made = host_.in_force()->signer.sign(*id, key->get(), host_.now(), lifetime);
  if (!made) {
    what.detail = made.error();
    return refuse(what, {StatusCode::INTERNAL, "the authority cannot sign; its log says why"});
  }
  made->issuance.node = who->node;
  if (auto kept = host_.store.record(made->issuance, who->peer->serial); !kept) {
    what.detail = kept.error().message;
    return refuse(what, status_of(kept.error(), StatusCode::UNAUTHENTICATED));
  }
  what.serial = made->issuance.serial;
  host_.audit(what);
  for (std::string &der : made->chain) *answer->add_chain() = std::move(der);
  return Status::OK;
}

Status EnrolmentService::SignJwt(grpc::ServerContext *context,
                                 const enrolment::SignJwtRequest *request,
                                 enrolment::JwtSvid *answer) {
  const auto who = caller(context->peer());
  if (!who) return who.error();
  const std::string asked = printable(request->spiffe_id());
  AuditRecord what{
      .event = "issued-jwt", .node = who->node, .address = who->peer->address, .spiffe_id = asked};
  const std::vector<std::string> audience(request->audience().begin(), request->audience().end());
  if (audience.empty() || audience.size() > kMostAudience) {
    return refuse(what, {StatusCode::INVALID_ARGUMENT, "a JWT-SVID has 1 to 16 audiences"});
  }
  const auto entries = host_.store.entries_of(who->node);
  if (!entries) return refuse(what, status_of(entries.error(), StatusCode::PERMISSION_DENIED));
  const auto id = SpiffeId::parse(request->spiffe_id());
  if (!id ||
      std::ranges::find(*entries, request->spiffe_id(), &Entry::spiffe_id) == entries->end()) {
    return refuse(what, {StatusCode::PERMISSION_DENIED,
                         fmt::format("has granted {} to no workload of this node", asked)});
  }
  auto made = host_.in_force()->signer.sign_jwt(*id, audience, host_.now(), settings_.jwt_lifetime);
  if (!made) {
    what.detail = made.error();
    return refuse(what, {StatusCode::INTERNAL, "the authority cannot sign; its log says why"});
  }
  host_.audit(what);
  answer->set_token(std::move(made->token));
  answer->set_not_after(made->not_after);
  return Status::OK;
}

tl::expected<enrolment::NodeState, Status> EnrolmentService::state_of(const std::string &node) {
  const auto entries = host_.store.entries_of(node);
  if (!entries) return tl::unexpected(status_of(entries.error(), StatusCode::UNAVAILABLE));
  const auto in_force = host_.in_force();
  enrolment::NodeState state;
  state.set_generation(in_force->signer.generation());
  std::set<std::string> domains{settings_.trust_domain};
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
  return state;
}

// --- Watch

class EnrolmentService::Stream final : public NodeStream {
 public:
  Stream(EnrolmentService &service, Caller caller)
      : service_(service), caller_(std::move(caller)) {}

 private:
  tl::expected<enrolment::NodeState, Status> now() override {
    if (Status status = service_.check(caller_); !status.ok()) return tl::unexpected(status);
    return service_.state_of(caller_.node);
  }
  void done() override { service_.forget(this); }

  EnrolmentService &service_;
  const Caller caller_;
};

grpc::ServerWriteReactor<enrolment::NodeState> *EnrolmentService::Watch(
    grpc::CallbackServerContext *context, const enrolment::WatchRequest *) {
  auto who = caller(context->peer());
  if (!who) return refused_node_stream(who.error());
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
