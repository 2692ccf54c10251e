#include "identity/agent/shim_service.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <exception>

#include "identity/agent/oracle.h"
#include "identity/rpc/monotonic.h"

namespace inlay::identity::agent {
namespace {

template <typename T>
std::string bytes_of(const T &value) {
  return {reinterpret_cast<const char *>(&value), sizeof value};
}

template <typename T>
bool take_head(const std::string &body, T *out) {
  if (body.size() < sizeof *out) return false;
  std::memcpy(out, body.data(), sizeof *out);
  return true;
}

std::string_view name_of(AgentFrame frame) {
  switch (frame) {
    case AgentFrame::attach:
      return "attach";
    case AgentFrame::sign:
      return "sign";
    case AgentFrame::probe:
      return "probe";
    case AgentFrame::status:
      return "status";
    case AgentFrame::test:
      return "test";
    default:
      return "";
  }
}

Reply refusal_reply(AgentRefusal refusal, std::string_view told) {
  return {.frame = AgentFrame::refused,
          .bytes = bytes_of(RefusedAnswer{.refusal = refusal}) + std::string(told),
          .fd = policy::UniqueFd()};
}

Reply text_reply(std::string text) {
  return {.frame = AgentFrame::text, .bytes = std::move(text), .fd = policy::UniqueFd()};
}

// Whom the kernel cannot name any more.
constexpr Caller kNobody{.pid = 0, .uid = static_cast<uid_t>(-1), .gid = static_cast<gid_t>(-1)};

bool may_know_all(const Caller &caller) { return caller.uid == 0 || caller.uid == geteuid(); }

}  // namespace

ShimService::ShimService(ShimServiceHost host, SignatureLimits limits)
    : host_(std::move(host)),
      of_a_process_(limits.of_a_process, limits.of_a_process * 2),
      of_a_user_(limits.of_a_user, limits.of_a_user * 2) {}

Reply ShimService::refuse(const Attestation &attestation, const Caller &caller,
                          std::string_view request, const Refused &why) {
  host_.counters.refused(why.refusal);
  host_.audit.write({.event = "refused",
                     .caller = caller,
                     .executable = attestation.workload.executable,
                     .request = request,
                     .spiffe_id = attestation.entry != nullptr
                                      ? std::string_view(attestation.entry->id.uri())
                                      : std::string_view(),
                     .reason = name(why.refusal),
                     .detail = why.detail.empty() ? why.told : why.detail});
  return refusal_reply(why.refusal, why.told);
}

Reply ShimService::answer(Request request) {
  try {
    const AgentHeader &header = request.frame.header;
    if (!request.frame.writer) {
      return refuse({}, kNobody, name_of(header.frame), refused(AgentRefusal::process_gone));
    }
    const Caller &writer = *request.frame.writer;
    if (!requests_.take(writer.uid, rpc::monotonic_ns())) {
      return refuse({}, writer, name_of(header.frame), refused(AgentRefusal::rate_limited));
    }
    switch (header.frame) {
      case AgentFrame::attach:
        return attach(request);
      case AgentFrame::sign:
        return sign(request);
      case AgentFrame::probe:
        return probe(request);
      case AgentFrame::status:
        return status(request);
      case AgentFrame::test:
        return test(request);
      default:
        return refuse({}, writer, "",
                      refused(AgentRefusal::malformed, "this agent does not know such a request"));
    }
  } catch (const std::exception &) {  // bad_alloc
    host_.counters.refused(AgentRefusal::internal);
    return refusal_reply(AgentRefusal::internal, "");
  }
}

Reply ShimService::attach(Request &request) {
  const Caller caller = *request.frame.writer;
  AttachRequest wanted;
  if (request.frame.body.size() != sizeof wanted || !take_head(request.frame.body, &wanted)) {
    return refuse({}, caller, "attach", refused(AgentRefusal::malformed));
  }
  const Attestation found = host_.attestor.attest(caller, request.frame.pidfd.get());
  if (found.entry == nullptr) return refuse(found, caller, "attach", found.refused);
  auto offer = snapshots_.offer(*found.entry, *host_.view(),
                                {.epoch = wanted.epoch, .generation = wanted.generation});
  if (!offer) {
    return refuse(found, caller, "attach", refused(AgentRefusal::internal, "", offer.error()));
  }
  wanted.version[sizeof wanted.version - 1] = '\0';
  host_.audit.write({.event = "attached",
                     .caller = caller,
                     .executable = found.workload.executable,
                     .spiffe_id = found.entry->id.uri(),
                     .detail = fmt::format("inlay {}", static_cast<const char *>(wanted.version))});
  auto attached =
      std::make_shared<Attached>(Attached{.caller = caller,
                                          .pidfd = std::move(request.frame.pidfd),
                                          .start_time = found.workload.start_time,
                                          .known = offer->answer,
                                          .shown = {.pid = caller.pid,
                                                    .uid = found.workload.uid,
                                                    .executable = found.workload.executable,
                                                    .spiffe_id = found.entry->id.uri(),
                                                    .since = std::time(nullptr),
                                                    .svid_expires = offer->svid_expires}});
  {
    std::lock_guard lock(mutex_);
    attached_[request.connection] = std::move(attached);
    host_.counters.attached = attached_.size();
  }
  if (!offer->fd) {
    return {
        .frame = AgentFrame::unchanged, .bytes = {}, .fd = policy::UniqueFd(), .attached = true};
  }
  return {.frame = AgentFrame::snapshot,
          .bytes = bytes_of(offer->answer),
          .fd = std::move(offer->fd),
          .attached = true};
}

Reply ShimService::sign(Request &request) {
  const Caller caller = *request.frame.writer;
  SignRequest wanted;
  const Attestation found = host_.attestor.attest(caller, request.frame.pidfd.get());
  auto no = [&](const Refused &why) { return refuse(found, caller, "sign", why); };
  if (!take_head(request.frame.body, &wanted)) return no(refused(AgentRefusal::malformed));
  if (found.entry == nullptr) return no(found.refused);
  const std::int64_t now_ns = rpc::monotonic_ns();
  if (!of_a_process_.take({caller.pid, found.workload.start_time}, now_ns) ||
      !of_a_user_.take(found.workload.uid, now_ns)) {
    return no(refused(AgentRefusal::rate_limited));
  }
  const std::string_view input = std::string_view(request.frame.body).substr(sizeof wanted);
  auto role = role_of_certificate_verify(wanted.hash_length, input);
  if (!role) return no(role.error());

  const std::string &id = found.entry->id.uri();
  auto view = host_.view();
  auto identity = view->identities.find(id);
  std::shared_ptr<const HeldSvid> held;
  if (identity != view->identities.end()) {
    auto consider = [&](const std::shared_ptr<const HeldSvid> &svid) {
      if (svid && svid->key_id == wanted.key) held = svid;
    };
    consider(identity->second.current);
    for (const auto &previous : identity->second.previous) consider(previous);
  }
  if (!held) {
    return no(refused(AgentRefusal::unknown_key, "it was replaced, or is another's: attach again"));
  }
  const std::time_t now = std::time(nullptr);
  if (now > held->svid.not_after || now < held->svid.not_before) {
    return no(refused(AgentRefusal::no_svid, why_no_svid(*view, id, now)));
  }
  auto signature = sign_certificate_verify(held->svid.key.get(), wanted.scheme, input);
  if (!signature) return no(signature.error());
  ++host_.counters.signatures;
  host_.audit.write({.event = "signature",
                     .caller = caller,
                     .executable = found.workload.executable,
                     .spiffe_id = id,
                     .role = *role});
  return {.frame = AgentFrame::signature, .bytes = *std::move(signature), .fd = policy::UniqueFd()};
}

Reply ShimService::probe(Request &request) {
  const Caller caller = *request.frame.writer;
  const Attestation found =
      host_.attestor.attest_as(caller, request.frame.pidfd.get(), request.frame.body);
  if (found.entry == nullptr) return refuse(found, caller, "probe", found.refused);
  return text_reply(found.entry->id.uri());
}

Reply ShimService::status(Request &request) {
  const Caller caller = *request.frame.writer;
  auto view = host_.view();
  auto config = host_.attestor.config();
  StatusInput input;
  input.view = view.get();
  input.trust_domain = config->trust_domain;
  input.configuration = config->file;
  input.lost_log_lines = host_.counters.lost_log_lines;
  input.caller = caller.uid;
  input.sees_all = may_know_all(caller);
  {
    std::lock_guard lock(mutex_);
    for (const auto &[connection, attached] : attached_) input.attached.push_back(attached->shown);
  }
  for (const Entry &entry : config->entries) {
    input.entries.push_back({.spiffe_id = entry.id.uri(),
                             .selectors = entry.selectors.text(),
                             .uid = entry.selectors.user.value_or(0),
                             .one_uid = entry.selectors.user.has_value()});
  }
  if (host_.status) host_.status(input);
  return text_reply(status_report(input, std::time(nullptr)));
}

Reply ShimService::test(Request &request) {
  const Caller caller = *request.frame.writer;
  std::uint32_t pid = 0;
  if (request.frame.body.size() != sizeof pid || !take_head(request.frame.body, &pid)) {
    return refuse({}, caller, "test", refused(AgentRefusal::malformed));
  }
  if (!may_know_all(caller)) {
    return refuse({}, caller, "test", refused(AgentRefusal::not_permitted));
  }
  auto json = host_.attestor.explain_json(static_cast<pid_t>(pid));
  if (!json) return refuse({}, caller, "test", refused(AgentRefusal::process_gone, json.error()));
  return text_reply(*std::move(json));
}

Service::News ShimService::news(std::uint64_t connection) {
  std::shared_ptr<Attached> attached;
  {
    std::lock_guard lock(mutex_);
    auto found = attached_.find(connection);
    if (found == attached_.end()) return {};
    attached = found->second;
  }
  try {
    const Attestation now = host_.attestor.attest(attached->caller, attached->pidfd.get());
    // Without a pidfd the start time tells a process from the next one with its pid.
    if (now.workload.start_time != attached->start_time) return {.reply = {}, .end = true};
    if (now.entry == nullptr) {
      // It asks again, and is told why.
      refuse(now, attached->caller, "news", now.refused);
      return {.reply = {}, .end = true};
    }
    auto offer = snapshots_.offer(*now.entry, *host_.view(), attached->known);
    if (!offer) return {.reply = {}, .end = true};
    if (!offer->fd) return {};
    {
      std::lock_guard lock(mutex_);
      attached->known = offer->answer;
      attached->shown.spiffe_id = now.entry->id.uri();
      attached->shown.executable = now.workload.executable;
      attached->shown.svid_expires = offer->svid_expires;
    }
    return {.reply = Reply{.frame = AgentFrame::snapshot,
                           .bytes = bytes_of(offer->answer),
                           .fd = std::move(offer->fd)},
            .end = false};
  } catch (const std::exception &) {  // bad_alloc
    return {.reply = {}, .end = true};
  }
}

Reply ShimService::not_attached(std::uint64_t connection) {
  Caller caller = kNobody;
  {
    std::lock_guard lock(mutex_);
    auto found = attached_.find(connection);
    if (found != attached_.end()) caller = found->second->caller;
  }
  ended(connection);
  return refuse({}, caller, "attach", refused(AgentRefusal::rate_limited, "too many are attached"));
}

void ShimService::ended(std::uint64_t connection) {
  std::lock_guard lock(mutex_);
  attached_.erase(connection);
  host_.counters.attached = attached_.size();
}

void ShimService::adopt(policy::UniqueFd connection, const Caller &peer) {
  if (host_.adopt) host_.adopt(std::move(connection), peer);
}

void ShimService::cut_off(const Caller &peer, AgentRefusal refusal, std::string_view why) {
  host_.counters.refused(refusal);
  host_.audit.write({.event = "cut-off", .caller = peer, .reason = name(refusal), .detail = why});
}

}  // namespace inlay::identity::agent
