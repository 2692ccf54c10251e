#include "shim/session/agent_link.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <unordered_map>
#include <utility>

#include "identity/certificate.h"
#include "identity/memory.h"
#include "policy/snapshot.h"
#include "shim/arena/kernel.h"
#include "shim/boot/log.h"
#include "shim/boot/sandbox.h"
#include "shim/boot/sealed.h"
#include "shim/boot/state.h"
#include "shim/session/agent_connection.h"
#include "shim/session/agent_material.h"
#include "shim/session/agent_wishes.h"
#include "shim/session/helper.h"
#include "shim/session/helper_state.h"
#include "shim/session/internal.h"
#include "shim/session/policy_watch.h"
#include "shim/session/session.h"

namespace inlay::shim {
namespace {

using identity::AgentFrame;
using policy::Reason;

constexpr std::int64_t kRetryFirstNs = 20'000'000;  // after losing the agent: back-off
constexpr std::int64_t kRetryLastNs = 200'000'000;
constexpr std::int64_t kLookAgainNs = 5'000'000;
constexpr std::int64_t kAskAgainNs = 1'000'000'000;  // after a refusal

struct Link {
  std::string socket;
  AgentConnection connection;
  bool attached = false;             // the agent has said on this connection who this process is
  std::uint32_t attach_request = 0;  // under way
  std::int64_t retry_at_ns = 0;      // not before
  bool unwatched = false;            // no room in the helper's epoll set: it looks by itself
  bool behind = false;               // it sent news for which there was no descriptor
  std::int64_t retry_after_ns = 0;   // the back-off
  std::string trouble;               // why there is no answer
  identity::SnapshotAnswer known;    // of what follows
  std::shared_ptr<const identity::BundleSet>
      bundles;  // the agent's last, whether or not it has an SVID
  std::shared_ptr<const tls::Credentials> credentials;
  std::array<std::uint8_t, 32> key{};
  Reason reason = Reason::none;  // why there are none though the agent has answered
  std::string why;
  bool accepts_stale_crls = false;  // as the policy said when they were taken in
  std::unordered_map<std::uint32_t, Task *> signatures;  // by request
};

// The helper's; made on first use and never destroyed.
Link *g_link = nullptr;
bool waits_for_identity(const Task &task) noexcept {
  return task.agent_since_ns != 0 && task.handshake == nullptr;
}

// The connection is no more, or is of no more use; another one is tried after a while.
void leave(Link &link) noexcept {
  link.connection.close();
  link.attached = false;
  link.attach_request = 0;
  link.behind = false;
  agent_link_settled();
  link.retry_after_ns = std::clamp(link.retry_after_ns * 2, kRetryFirstNs, kRetryLastNs);
  link.retry_at_ns = monotonic_ns() + link.retry_after_ns;
  for (auto &[request, task] : link.signatures) task->signature_request = 0;
  link.signatures.clear();
}

void lose(Link &link, std::string trouble) {
  leave(link);
  link.trouble = link.socket + ": " + std::move(trouble);  // may throw
}

// Sends what there is to send, and has the helper woken by what comes.
void arm(Link &link) {
  if (!link.connection.flush()) return lose(link, "the agent has gone");
  epoll_event event{};
  event.events = EPOLLIN | EPOLLONESHOT | (link.connection.wants_write() ? EPOLLOUT : 0u);
  event.data.ptr = agent_link_tag();
  const int fd = link.connection.fd();
  long armed = kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_MOD, fd, kernel::word(&event));
  if (armed == -ENOENT) {
    armed = kernel::call(SYS_epoll_ctl, g_helper.epoll, EPOLL_CTL_ADD, fd, kernel::word(&event));
  }
  link.unwatched = armed != 0;
}

void attach(Link &link) {
  link.attach_request = request_attach(link.connection, link.known);
  arm(link);
}

// Goes on towards an answer, as far as the back-off lets it.
void pursue(Link &link) {
  if (link.attached || link.attach_request != 0 || monotonic_ns() < link.retry_at_ns) return;
  if (!link.connection.is_open()) {
    // New kinds of system calls may end a program that is under a filter of its own.
    if (boot::sandboxed()) return lose(link, "the program's seccomp filter leaves no way to it");
    if (const int error = link.connection.open(link.socket.c_str())) {
      return lose(link, describe_agent_error(error));
    }
  }
  attach(link);
}

// The link to the agent at `socket`: a configuration may name another one than before.
Link &link_to(const std::string &socket) {
  if (g_link != nullptr && g_link->socket != socket) {
    for (auto &[request, task] : g_link->signatures) task->signature_request = 0;
  }
  if (g_link == nullptr || g_link->socket != socket) {
    auto made = std::make_unique<Link>();
    made->socket = socket;
    delete std::exchange(g_link, made.release());
  }
  return *g_link;
}

void send_signature_request(Link &link, Task &task) {
  const tls::SignatureRequest &wanted = task.handshake->signature_request();
  const std::size_t fixed = identity::kSignaturePadding + sizeof identity::kServerContext;
  if (wanted.input.size() < fixed) return;
  identity::SignRequest request;
  request.key = task.key;
  request.scheme = wanted.scheme;
  request.hash_length = static_cast<std::uint32_t>(wanted.input.size() - fixed);
  task.signature_request =
      link.connection.request(AgentFrame::sign, bytes_of(request), wanted.input);
  if (task.signature_request != 0) link.signatures[task.signature_request] = &task;
  arm(link);
}

// The agent has answered: whoever waits goes on.
void answered(Link &link) {
  link.attach_request = 0;
  link.trouble.clear();
  agent_link_settled();
  for (Task *task = g_helper.tasks; task != nullptr; task = task->next) {
    if (waits_for_identity(*task)) notify_helper(*task->slot);
    if (task->handshake != nullptr && task->wants_signature && !task->signature &&
        task->signature_request == 0) {
      send_signature_request(link, *task);
    }
  }
}

void log_trouble(Reason reason, const std::string &detail) {
  boot::LogFields fields;
  fields.reason = reason;
  fields.detail = detail;
  boot::log_event(fields);
}

void adopt_policy(const std::string &block) {
  if (!boot::policy_is_the_agents()) return;
  auto policy = policy::deserialize(block);
  if (policy) {
    boot::adopt_policy(*std::move(policy));
  } else {
    log_trouble(Reason::policy_unreadable,
                "the agent's policy: " + std::string(policy::sentence(policy.error())));
  }
}

void adopt(Link &link, const identity::AgentSnapshot &snapshot,
           const identity::SnapshotAnswer &answer) {
  const identity::MemoryWatch watch;
  link.known = {};  // until it is taken in
  link.credentials.reset();
  link.reason = Reason::none;
  adopt_policy(snapshot.policy);
  const policy::Policy *policy = boot::policy();
  link.accepts_stale_crls = policy != nullptr && policy->identity.accept_stale_crl;
  auto bundles = bundles_of(snapshot, link.accepts_stale_crls);
  auto svid = svid_of(snapshot);
  if (watch.ran_out()) throw std::bad_alloc();  // what is wrong with them may be that
  link.reason = Reason::agent_refused;
  if (bundles && !svid) {  // what it trusts still counts for open sessions
    link.bundles = std::make_shared<const identity::BundleSet>(*std::move(bundles));
    note_news();
  }
  if (!bundles || !svid) {
    link.why = svid ? bundles.error() : svid.error();
    link.known = answer;
    return log_trouble(link.reason, link.why);
  }
  auto material =
      std::make_shared<const identity::Material>(*std::move(svid), *std::move(bundles), 0u);
  auto credentials = tls::Credentials::make(material);
  if (watch.ran_out()) {
    link.reason = Reason::none;
    throw std::bad_alloc();
  }
  if (!credentials) {
    link.why = credentials.error();
    return log_trouble(link.reason, link.why);
  }
  link.key = identity::public_key_digest((*credentials)->material().svid.chain.front().get());
  link.credentials = *std::move(credentials);
  link.bundles = {material, &material->bundles};
  note_news();
  link.reason = Reason::none;
  link.why.clear();
  link.known = answer;
  const std::string &id = link.credentials->material().svid.id.uri();
  boot::log_own_id(id);
  note_own_id(id);
}

void take_snapshot(Link &link, const AgentFrameBody &frame) {
  identity::SnapshotAnswer answer;
  const boot::SealedMemory memory(frame.fd, 0);
  if (frame.bytes.size() < sizeof answer || !memory) {
    // The program has all the descriptors it may have, or its own filter lets none be taken: what
    // was known stays, as its key does at this agent until the SVID ends.
    if (link.credentials == nullptr || !(link.attached || boot::sandboxed())) {
      return lose(link, "the agent sent no snapshot");
    }
    link.attached = true;
    link.behind = !boot::sandboxed();
    link.retry_at_ns = monotonic_ns() + kAskAgainNs;
    return answered(link);
  }
  std::memcpy(&answer, frame.bytes.data(), sizeof answer);
  auto snapshot = identity::parse_agent_snapshot(memory.bytes());
  if (!snapshot) return lose(link, "the agent sent " + snapshot.error());
  adopt(link, *snapshot, answer);
  link.attached = true;
  link.behind = false;
  link.retry_after_ns = 0;
  answered(link);
}

void refuse_attach(Link &link, const AgentFrameBody &frame) {
  link.credentials.reset();
  link.known = {};
  link.attached = false;
  link.reason = Reason::agent_refused;
  link.why = refusal_text(frame);
  link.retry_at_ns = monotonic_ns() + kAskAgainNs;
  log_trouble(link.reason, link.why);
  answered(link);
}

void take_signature(Link &link, AgentFrameBody &frame) {
  const auto found = link.signatures.find(frame.header.request);
  if (found == link.signatures.end()) return;  // of a handshake given up meanwhile
  Task &task = *found->second;
  link.signatures.erase(found);
  task.signature_request = 0;
  if (frame.header.frame == AgentFrame::signature) {
    task.signature = std::move(frame.bytes);
  } else {
    task.signature.emplace();
    task.no_signature = refusal_text(frame);
  }
  notify_helper(*task.slot);
}

void take_frame(Link &link, AgentFrameBody &frame) {
  const bool for_attach = frame.header.request == 0 || frame.header.request == link.attach_request;
  switch (frame.header.frame) {
    case AgentFrame::snapshot:
      return take_snapshot(link, frame);
    case AgentFrame::unchanged:
      if (frame.header.request != link.attach_request) return;
      link.attached = true;
      link.retry_after_ns = 0;
      return answered(link);
    case AgentFrame::refused:
      return for_attach ? refuse_attach(link, frame) : take_signature(link, frame);
    case AgentFrame::signature:
      return take_signature(link, frame);
    default:
      return lose(link, "the agent sent what this version of inlay does not know");
  }
}

void take_all(Link &link) {
  constexpr int kMostFrames = 64;  // fork waits for the helper's lock
  for (int frames = 0; frames < kMostFrames; ++frames) {
    AgentFrameBody frame;
    switch (link.connection.receive(frame)) {
      case AgentConnection::Got::nothing:
        return arm(link);
      case AgentConnection::Got::gone: {
        const bool served = link.attached;
        lose(link, "the agent has gone");
        // Its successor listens already where the socket outlives the agent. One that has not
        // answered is given time, or this would go round and round.
        if (served) link.retry_at_ns = 0;
        return;
      }
      case AgentConnection::Got::frame:
        take_frame(link, frame);
        break;
    }
    if (!link.connection.is_open()) return;
  }
  arm(link);  // there may be more
}

bool somebody_waits() noexcept {
  for (const Task *task = g_helper.tasks; task != nullptr; task = task->next) {
    if (task->agent_since_ns != 0) return true;
  }
  return false;
}

}  // namespace

OwnIdentity agent_identity(const std::string &socket) {
  Link &link = link_to(socket);
  // What was taken in under another setting is asked for again.
  const policy::Policy *policy = boot::policy();
  if (policy != nullptr && policy->identity.accept_stale_crl != link.accepts_stale_crls) {
    link.known = {};
    link.attached = false;
    link.attach_request = 0;  // its answer is about the old setting
    link.accepts_stale_crls = policy->identity.accept_stale_crl;
  }
  pursue(link);
  OwnIdentity identity;
  identity.bundles = link.bundles;
  // An agent that was started again has other keys: what is known counts once it has confirmed it.
  if (link.attached && link.credentials != nullptr) {
    identity.credentials = link.credentials;
    identity.key = link.key;
  } else if (link.reason != Reason::none && link.attach_request == 0) {
    identity.reason = link.reason;
    identity.why = link.why;
  } else {
    identity.pending = true;
  }
  return identity;
}

void ask_for_signature(Task &task) {
  Link &link = *g_link;  // the handshake's identity came from it
  if (link.attached && task.signature_request == 0) return send_signature_request(link, task);
  pursue(link);
}

void forget_signature(Task &task) noexcept {
  if (task.signature_request != 0) g_link->signatures.erase(task.signature_request);
}

std::string agent_trouble() {
  if (g_link == nullptr) return {};
  if (g_link->attached) return g_link->socket + ": the agent does not answer";
  return g_link->trouble.empty() ? g_link->socket + ": no answer yet" : g_link->trouble;
}

void attend_agent_link() noexcept {
  if (g_link == nullptr) return;
  try {
    take_all(*g_link);
  } catch (...) {  // no memory for a frame: its end is not known any more
    leave(*g_link);
  }
}

void *agent_link_tag() noexcept {
  static constinit char tag = 0;
  return &tag;
}

static std::int64_t due_when_watched(const AgentWishes &wishes, std::int64_t now_ns, bool watching) noexcept {
  if (g_link == nullptr && !wishes.policy && !wishes.link) return -1;
  try {
    Link &link = wishes.policy       ? link_to(boot::policy_agent())
                 : g_link == nullptr ? link_to(std::string(agent_socket()))
                                     : *g_link;
    if (link.attach_request != 0) return -1;
    if (link.attached) {
      agent_link_settled();
      if (!link.behind) return -1;
      if (now_ns >= link.retry_at_ns) {
        attach(link);
        return -1;
      }
      return link.retry_at_ns - now_ns;
    }
    if (!wishes.policy && !wishes.link && !watching && !somebody_waits()) return -1;
    pursue(link);
    if (link.attached || link.attach_request != 0) return -1;
    return std::max<std::int64_t>(link.retry_at_ns - now_ns, 0);
  } catch (...) {
    return kRetryLastNs;
  }
}

std::int64_t agent_link_due(std::int64_t now_ns, bool watching) noexcept {
  const AgentWishes wishes = take_agent_wishes();
  if (g_link != nullptr && g_link->unwatched && g_link->connection.is_open()) {
    attend_agent_link();
    const std::int64_t due = due_when_watched(wishes, now_ns, watching);
    return due < 0 ? kLookAgainNs : std::min(due, kLookAgainNs);
  }
  return due_when_watched(wishes, now_ns, watching);
}

void close_agent_link() noexcept {
  if (g_link == nullptr) return;
  g_link->connection.close();
  g_link->attached = false;
  g_link->attach_request = 0;
  for (auto &[request, task] : g_link->signatures) task->signature_request = 0;
  g_link->signatures.clear();
}

void forget_agent_link() noexcept {
  forget_agent_wishes();
  if (g_link == nullptr) return;
  g_link->connection.forget();
  g_link->attached = false;
  g_link->attach_request = 0;
  g_link->signatures.clear();
}

void seed_agent_link(const std::string &socket, const identity::AgentSnapshot &snapshot,
                     const identity::SnapshotAnswer &answer) noexcept try {
  Link &link = link_to(socket);
  adopt(link, snapshot, answer);
} catch (...) {
  // Out of memory: the first handshake asks the agent.
}

}  // namespace inlay::shim
