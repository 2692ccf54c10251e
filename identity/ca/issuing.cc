#include "identity/ca/issuing.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/enrolment_token.h"
#include "identity/rpc/monotonic.h"

namespace inlay::identity::ca {
namespace {

constexpr std::size_t kMostAudience = 16;
constexpr std::uint32_t kAtOnce = 10;  // seconds' worth

// What a caller is told of the store's troubles is no more than that: the audit log has the rest.
Refused refused_by(const StoreError &error, Refusal refused) {
  switch (error.problem) {
    case StoreProblem::refused:
    case StoreProblem::not_found:
      return {refused, error.message, ""};
    case StoreProblem::unavailable:
      return {Refusal::unavailable, "the authority cannot reach its database; come again",
              error.message};
    default:
      return {Refusal::internal, "the authority has a problem of its own; its log says which",
              error.message};
  }
}

std::string digest_of(EVP_PKEY *key) {
  const auto digest = public_key_digest(key);
  return {digest.begin(), digest.end()};
}

// The address without its port.
std::string host_of(const std::string &address) { return address.substr(0, address.rfind(':')); }

}  // namespace

std::string_view name(Refusal refusal) noexcept {
  switch (refusal) {
    case Refusal::invalid:
      return "INVALID_ARGUMENT";
    case Refusal::unauthenticated:
      return "UNAUTHENTICATED";
    case Refusal::denied:
      return "PERMISSION_DENIED";
    case Refusal::exhausted:
      return "RESOURCE_EXHAUSTED";
    case Refusal::unavailable:
      return "UNAVAILABLE";
    case Refusal::internal:
      break;
  }
  return "INTERNAL";
}

Issuing::Issuing(IssuingHost host, IssuingSettings settings)
    : host_(std::move(host)),
      settings_(std::move(settings)),
      enrolments_(settings_.enrolments_per_second, kAtOnce * settings_.enrolments_per_second),
      requests_(settings_.requests_per_second, kAtOnce * settings_.requests_per_second) {}

std::string Issuing::node_id(std::string_view node) const {
  return fmt::format("spiffe://{}{}{}", settings_.trust_domain, kNodePrefix, node);
}

tl::unexpected<Refused> Issuing::refuse(const AuditRecord &event, Refused why) {
  AuditRecord whole = event;
  whole.event = "refused";
  whole.reason = name(why.refusal);
  if (whole.detail.empty()) whole.detail = why.detail.empty() ? why.message : why.detail;
  host_.audit(whole);
  return tl::unexpected(std::move(why));
}

Issued<Caller> Issuing::caller(std::shared_ptr<const rpc::PeerIdentity> peer) {
  Caller who{std::move(peer), ""};
  const auto fail = [&](Refusal refusal, std::string message, std::string detail = "") {
    return refuse({.event = "refused",
                   .node = who.node,
                   .address = who.peer ? who.peer->address : "",
                   .serial = who.peer ? who.peer->serial : ""},
                  {refusal, std::move(message), std::move(detail)});
  };
  if (!who.peer) return fail(Refusal::unavailable, "the connection is gone");
  if (!who.peer->problem.empty()) {
    const std::string why = "the certificate of this node is refused: " + who.peer->problem;
    if (who.peer->once && who.peer->once->path().starts_with(kNodePrefix)) {
      who.node = who.peer->once->path().substr(kNodePrefix.size());
    }
    return fail(Refusal::unauthenticated, why,
                who.peer->claim.empty() ? "" : why + "; it calls itself " + who.peer->claim);
  }
  if (!who.peer->id) {
    return fail(Refusal::unauthenticated,
                "this needs a node's own SVID; enrol the machine with inlay enroll");
  }
  if (!who.peer->id->path().starts_with(kNodePrefix)) {
    return fail(Refusal::denied, fmt::format("{} is a workload, not a node", who.peer->id->uri()));
  }
  who.node = who.peer->id->path().substr(kNodePrefix.size());
  if (auto good = check(who); !good) {
    return fail(good.error().refusal, good.error().message, good.error().detail);
  }
  if (!requests_.take(who.node, rpc::monotonic_ns())) {
    return fail(Refusal::exhausted, "too many requests of this node; come again");
  }
  return who;
}

// A connection may outlive what it was opened with.
Issued<void> Issuing::check(const Caller &caller) {
  const std::time_t now = host_.now();
  if (caller.peer->not_after <= now) {
    return tl::unexpected(Refused{Refusal::unauthenticated,
                                  fmt::format("the node's SVID ended at {}, the clock here says {}",
                                              time_text(caller.peer->not_after), time_text(now))});
  }
  const auto node = host_.store.check_node(caller.node, caller.peer->serial, now);
  if (!node) return tl::unexpected(refused_by(node.error(), Refusal::unauthenticated));
  return {};
}

// Recorded before it is handed out: nothing that is out there is unknown here.
Issued<Chain> Issuing::issue_node(const std::string &node, EVP_PKEY *key, std::string_view by,
                                  std::string_view event, std::string_view address) {
  const auto in_force = host_.in_force();
  const std::string uri = node_id(node);
  AuditRecord what{.event = event, .node = node, .address = address, .spiffe_id = uri};
  const auto id = SpiffeId::parse(uri);
  if (!id) return refuse(what, {Refusal::internal, "the node's name makes no SPIFFE ID"});
  auto made = in_force->signer.sign(*id, key, host_.now(), settings_.node_lifetime);
  if (!made) {
    what.detail = made.error();
    return refuse(what, {Refusal::internal, "the authority cannot sign; its log says why"});
  }
  made->issuance.node = node;
  if (auto kept = host_.store.record(made->issuance, by, true); !kept) {
    return refuse(what, refused_by(kept.error(), Refusal::unauthenticated));
  }
  what.serial = made->issuance.serial;
  host_.audit(what);
  return std::move(made->chain);
}

Issued<Chain> Issuing::enroll(const EnrolmentRequest &request, const std::string &address) {
  AuditRecord what{.event = "enrolled", .node = request.node, .address = address};
  if (!enrolments_.take(host_of(address), rpc::monotonic_ns())) {
    return refuse(what, {Refusal::exhausted,
                         "too many machines enrol from this address at once; come again"});
  }
  const auto key = public_key_of_csr(request.csr);
  if (!key) return refuse(what, {Refusal::invalid, key.error()});
  const auto enrolled = host_.store.enroll({.secret_digest = digest_of_secret(request.secret),
                                            .key_digest = digest_of(key->get()),
                                            .hostname = printable(request.hostname.substr(0, 255)),
                                            .address = host_of(address),
                                            .now = host_.now(),
                                            .node = std::string(request.node)});
  if (!enrolled) return refuse(what, refused_by(enrolled.error(), Refusal::denied));
  if (!*enrolled) {
    const std::string detail = "token " + std::string(name(enrolled->error()));
    what.detail = detail;
    // One answer for all: who guesses learns nothing from it.
    return refuse(what, {Refusal::denied,
                         "does not take this token: it is unknown, used, or past its time; make "
                         "another with inlay ca token"});
  }
  return issue_node((*enrolled)->node, key->get(), "", "enrolled", address);
}

Issued<Chain> Issuing::renew(const Caller &who, std::string_view csr) {
  const auto key = public_key_of_csr(csr);
  if (!key) {
    return refuse({.event = "renewed", .node = who.node, .address = who.peer->address},
                  {Refusal::invalid, key.error()});
  }
  return issue_node(who.node, key->get(), who.peer->serial, "renewed", who.peer->address);
}

Issued<Chain> Issuing::rejoin(const std::string &node_uri, std::string_view csr,
                              const std::string &address) {
  const std::string asked = printable(node_uri);
  const AuditRecord what{.event = "rejoined", .address = address, .spiffe_id = asked};
  if (!enrolments_.take(host_of(address), rpc::monotonic_ns())) {
    return refuse(what, {Refusal::exhausted, "too many requests; come again"});
  }
  const auto key = public_key_of_csr(csr);
  if (!key) return refuse(what, {Refusal::invalid, key.error()});
  const std::string prefix = node_id("");
  if (!node_uri.starts_with(prefix)) {
    return refuse(what, {Refusal::invalid, "that is no node of this authority"});
  }
  const std::string node = node_uri.substr(prefix.size());
  const auto joined = host_.store.rejoin(node, digest_of(key->get()), host_.now());
  if (!joined) return refuse(what, refused_by(joined.error(), Refusal::denied));
  if (!*joined) {
    return refuse(what, {Refusal::denied,
                         fmt::format("waits for an administrator to let this node in again: inlay "
                                     "ca agents approve {}",
                                     printable(node))});
  }
  return issue_node(node, key->get(), "", "rejoined", address);
}

Issued<std::vector<Entry>> Issuing::entries(const Caller &who) {
  auto entries = host_.store.entries_of(who.node);
  if (entries) return std::move(*entries);
  return refuse({.event = "refused", .node = who.node, .address = who.peer->address},
                refused_by(entries.error(), Refusal::denied));
}

Issued<Chain> Issuing::sign(const Caller &who, const std::string &spiffe_id, std::string_view csr) {
  const std::string asked = printable(spiffe_id);
  AuditRecord what{
      .event = "issued", .node = who.node, .address = who.peer->address, .spiffe_id = asked};
  const auto key = public_key_of_csr(csr);
  if (!key) return refuse(what, {Refusal::invalid, key.error()});
  const auto entries = host_.store.entries_of(who.node);
  if (!entries) return refuse(what, refused_by(entries.error(), Refusal::denied));
  const auto entry = std::ranges::find(*entries, spiffe_id, &Entry::spiffe_id);
  const auto id = SpiffeId::parse(spiffe_id);
  if (entry == entries->end() || !id) {
    return refuse(what, {Refusal::denied,
                         fmt::format("has granted {} to no workload of this node; inlay ca entry "
                                     "add does",
                                     asked)});
  }
  const std::time_t lifetime = entry->svid_ttl != 0 ? entry->svid_ttl : settings_.svid_lifetime;
  auto made = host_.in_force()->signer.sign(*id, key->get(), host_.now(), lifetime);
  if (!made) {
    what.detail = made.error();
    return refuse(what, {Refusal::internal, "the authority cannot sign; its log says why"});
  }
  made->issuance.node = who.node;
  if (auto kept = host_.store.record(made->issuance, who.peer->serial); !kept) {
    return refuse(what, refused_by(kept.error(), Refusal::unauthenticated));
  }
  what.serial = made->issuance.serial;
  host_.audit(what);
  return std::move(made->chain);
}

Issued<SignedJwt> Issuing::sign_jwt(const Caller &who, const std::string &spiffe_id,
                                    const std::vector<std::string> &audience) {
  const std::string asked = printable(spiffe_id);
  AuditRecord what{
      .event = "issued-jwt", .node = who.node, .address = who.peer->address, .spiffe_id = asked};
  if (audience.empty() || audience.size() > kMostAudience) {
    return refuse(what, {Refusal::invalid, "a JWT-SVID has 1 to 16 audiences"});
  }
  const auto entries = host_.store.entries_of(who.node);
  if (!entries) return refuse(what, refused_by(entries.error(), Refusal::denied));
  const auto id = SpiffeId::parse(spiffe_id);
  if (!id || std::ranges::find(*entries, spiffe_id, &Entry::spiffe_id) == entries->end()) {
    return refuse(
        what, {Refusal::denied, fmt::format("has granted {} to no workload of this node", asked)});
  }
  auto made = host_.in_force()->signer.sign_jwt(*id, audience, host_.now(), settings_.jwt_lifetime);
  if (!made) {
    what.detail = made.error();
    return refuse(what, {Refusal::internal, "the authority cannot sign; its log says why"});
  }
  host_.audit(what);
  return std::move(*made);
}

}  // namespace inlay::identity::ca
