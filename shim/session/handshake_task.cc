#include "shim/session/handshake_task.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "shim/arena/arena.h"
#include "shim/arena/kernel.h"
#include "shim/arena/published.h"
#include "shim/session/agent_link.h"
#include "shim/session/helper.h"
#include "shim/session/internal.h"
#include "shim/session/policy_watch.h"
#include "shim/session/runtime.h"
#include "shim/session/socket_facts.h"

namespace inlay::shim {
namespace {

using policy::Direction;
using policy::Event;
using policy::Reason;
using Progress = tls::Handshake::Progress;

Reason reason_of(identity::VerifyError error) noexcept {
  using E = identity::VerifyError;
  switch (error) {
    case E::no_certificate:
      return Reason::no_peer_certificate;
    case E::malformed:
      return Reason::certificate_malformed;
    case E::expired:
      return Reason::certificate_expired;
    case E::not_yet_valid:
      return Reason::certificate_not_yet_valid;
    case E::unknown_trust_domain:
      return Reason::trust_domain_unknown;
    case E::untrusted:
    case E::intermediate:
    case E::chain_too_long:
      return Reason::certificate_untrusted;
    case E::weak:
      return Reason::certificate_weak;
    case E::revoked:
      return Reason::certificate_revoked;
    case E::crl_stale:
      return Reason::crl_stale;
    case E::internal:
      return Reason::internal_error;
    default:
      return Reason::certificate_not_svid;
  }
}

Reason reason_of(const tls::HandshakeFailure &failure, Reason judged) noexcept {
  using E = tls::HandshakeError;
  switch (failure.error) {
    case E::not_tls:
      return Reason::peer_not_tls;
    case E::version:
      return Reason::tls_version;
    case E::alpn:
      return Reason::alpn_mismatch;
    case E::no_certificate:
      return Reason::no_peer_certificate;
    case E::certificate:
      return failure.verify ? reason_of(failure.verify->error) : Reason::certificate_malformed;
    case E::not_authorised:
      return judged == Reason::none ? Reason::peer_not_allowed : judged;
    case E::key_proof:
      return Reason::key_proof_failed;
    case E::alert_received:
      return Reason::refused_by_peer;
    case E::record_overflow:
      return Reason::record_overflow;
    case E::own_svid_expired:
      return Reason::svid_expired;
    case E::no_signature:
      return Reason::agent_refused;
    case E::protocol:
      return Reason::protocol_violation;
    case E::out_of_memory:
      return Reason::out_of_resources;
    default:
      return Reason::internal_error;
  }
}

std::string detail_of(const tls::HandshakeFailure &failure) {
  if (failure.error == tls::HandshakeError::alert_received && failure.alert) {
    return std::string(tls::name(*failure.alert));
  }
  if (failure.error == tls::HandshakeError::out_of_memory) return "no memory for a handshake";
  if (failure.verify && !failure.verify->detail.empty()) return failure.verify->detail;
  return failure.detail;
}

// Between accept() and the handshake the policy changed, or a fork brought the connection here: its
// rule is a number of another policy.
bool decide_again(Slot &slot, int fd, const policy::Policy &policy) noexcept {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  kernel::call(SYS_getsockname, fd, kernel::word(&address), kernel::word(&length));
  auto here = policy::Endpoint::from_sockaddr(reinterpret_cast<sockaddr *>(&address), length);
  policy::Decision decision;
  if (here) decision = policy::decide(policy, policy::InboundQuery{*here});
  slot.rule = decision.rule;
  local(slot).policy = &policy;
  if (here && decision.mode == policy::Mode::strict) return true;
  fail_closed(slot, fd, Reason::policy_changed);
  return false;
}

// What a connect() may meet besides a server. Only a port the program chose itself can be another's
// destination: a client without one never takes a ClientHello, whoever sends it.
tls::OtherClient other_client(Slot &slot, int fd) noexcept {
  if (slot.direction != Direction::outbound) return tls::OtherClient::refused;
  const std::optional<policy::Endpoint> here = own_end(fd).endpoint;
  if (here && here == peer_end(fd).endpoint) return tls::OtherClient::itself;
  return local(slot).bound ? tls::OtherClient::met : tls::OtherClient::refused;
}

// A peer that connected to this socket while it connected to the peer: what accept() would have
// said, on top of what connect() said.
Reason judge_as_accepted(const policy::Policy &policy, Slot &slot,
                         const identity::SpiffeId &peer) noexcept {
  const int fd = static_cast<int>(local(slot).descriptor) - 1;
  const std::optional<policy::Endpoint> here = own_end(fd).endpoint;
  if (!here) return Reason::out_of_resources;
  return judge_inbound(policy, policy::decide(policy, policy::InboundQuery{*here}), peer);
}

enum class Begun : std::uint8_t { yes, waits, failed };

Begun begin(Slot &slot, int fd, Task &task) {
  OwnIdentity own = current_identity();
  if (own.credentials == nullptr) {
    if (own.pending) return Begun::waits;
    fail_closed(slot, fd, own.reason, own.why);
    return Begun::failed;
  }
  task.key = own.key;
  bool inbound = slot.direction == Direction::inbound;
  const policy::Policy *policy = local(slot).policy;
  if (inbound || policy == nullptr) policy = current_policy();
  if (policy == nullptr) {
    fail_closed(slot, fd, Reason::policy_unreadable);
    return Begun::failed;
  }
  if (inbound && local(slot).policy != policy && !decide_again(slot, fd, *policy))
    return Begun::failed;
  std::uint32_t rule = slot.rule;
  auto judge = [policy, inbound, rule, &task](const identity::SpiffeId &peer) {
    publish(task.slot->peer_id, sizeof(task.slot->peer_id), peer.uri());
    task.judged = inbound ? policy::judge_inbound_peer(*policy, rule, peer)
                          : policy::judge_outbound_peer(*policy, rule, peer);
    if (task.judged == Reason::allowed && task.handshake->met_client())
      task.judged = judge_as_accepted(*policy, *task.slot, peer);
    return task.judged == Reason::allowed;
  };
  task.handshake = tls::Handshake::start(std::move(own.credentials),
                                         inbound ? tls::Role::server : tls::Role::client, judge,
                                         other_client(slot, fd));
  if (task.handshake == nullptr) {
    fail_closed(slot, fd, Reason::out_of_resources, "no memory for a handshake");
    return Begun::failed;
  }
  return Begun::yes;
}

// 0, EAGAIN, or what broke the connection.
int send_output(int fd, Task &task) noexcept {
  while (task.output_sent < task.output.size()) {
    long sent = transmit(fd, task.output.data() + task.output_sent,
                         task.output.size() - task.output_sent, 0);
    if (sent < 0) return static_cast<int>(-sent);
    task.output_sent += static_cast<std::size_t>(sent);
  }
  task.output.clear();
  task.output_sent = 0;
  return 0;
}

// Reads towards one whole record, never past its end: what follows may be the session's. Positive
// when the record is whole, 0 at the end of the stream, negative errno.
long read_record(int fd, Task &task) {
  for (;;) {
    std::size_t have = task.input.size();
    std::size_t wanted = tls::kHeaderLength;
    if (have >= tls::kHeaderLength) {
      auto header = tls::parse_header(task.input);
      if (!header) return 1;  // advance() says what is wrong with it
      wanted += header->length;
      if (have >= wanted) return 1;
    }
    task.input.resize(wanted);
    long got = kernel::receive(fd, task.input.data() + have, wanted - have, MSG_DONTWAIT);
    task.input.resize(have + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got <= 0) return got;
    if (task.first_byte_ns == 0) task.first_byte_ns = monotonic_ns();
  }
}

HandshakeStep fail(Slot &slot, int fd, Task &task) {
  send_output(fd, task);  // the alert, as far as the kernel takes it
  const tls::HandshakeFailure &failure = task.handshake->failure();
  fail_closed(slot, fd, reason_of(failure, task.judged), detail_of(failure));
  return HandshakeStep::failed;
}

HandshakeStep finish(Slot &slot, int fd, Task &task) {
  tls::Established established = task.handshake->take_established();
  {
    Locked receiving(slot.receive_lock);
    Locked sending(slot.send_lock);
    slot.receiving.traffic = established.receive;
    slot.receiving.from_server = established.role == tls::Role::client;
    slot.met_client = task.handshake->met_client();
    slot.sending.traffic = established.send;
    slot.peer_path = established.peer_path;
    // Our last flight goes first, at once unless early data goes with it (push_tail).
    if (slot.sending.early.length == 0) send_output(fd, task);
    std::size_t left = task.output.size() - task.output_sent;
    if (queue_append(slot, slot.sending.tail, task.output.data() + task.output_sent, left) !=
        left) {
      sending.unlock();
      receiving.unlock();
      fail_closed(slot, fd, Reason::out_of_resources, "no room for the last flight");
      return HandshakeStep::failed;
    }
    Local &mine = local(slot);
    mine.open = tls::RecordCipher::make(slot.receiving.traffic, false).release();
    mine.seal = tls::RecordCipher::make(slot.sending.traffic, true).release();
  }
  OPENSSL_cleanse(&established.send, sizeof(established.send));
  OPENSSL_cleanse(&established.receive, sizeof(established.receive));
  report(&slot, fd, Event::accepted, Reason::allowed, "");
  State expected = State::handshaking;
  if (!slot.state.compare_exchange_strong(expected, State::established,
                                          std::memory_order_acq_rel)) {
    return HandshakeStep::failed;
  }
  set_state(slot, State::established);
  bool shut = false;
  {
    Locked receiving(slot.receive_lock);
    shut = slot.receiving.shut;
  }
  if (shut) kernel::shut_down(fd, SHUT_RD);
  slot.hides_readiness.store(false, std::memory_order_relaxed);
  slot.quieted.store(false, std::memory_order_relaxed);
  if (slot.direction == Direction::inbound) {
    // Whoever speaks first speaks now: its first bytes wait for this acknowledgement (Nagle).
    int at_once = 1;
    kernel::set_option(fd, IPPROTO_TCP, TCP_QUICKACK, &at_once, sizeof(at_once));
  }
  refire_readable(slot, fd);
  return HandshakeStep::established;
}

// It waits, from now on or still.
HandshakeStep wait_for_agent(Task &task) noexcept {
  if (task.agent_since_ns == 0) task.agent_since_ns = monotonic_ns();
  return HandshakeStep::wants_agent;
}

// What the agent's answer makes of it. The request is made, if it is not under way yet.
Progress go_on_with_signature(Task &task) {
  task.wants_signature = true;
  if (!task.signature) {
    if (task.signature_request == 0) ask_for_signature(task);
    return Progress::need_signature;
  }
  task.wants_signature = false;
  auto progress = task.handshake->supply_signature(*std::exchange(task.signature, std::nullopt),
                                                   std::move(task.no_signature), task.output);
  if (progress != Progress::need_signature) task.agent_since_ns = 0;
  return progress;
}

HandshakeStep step(Slot &slot, int fd, Task &task) {
  Progress progress = Progress::need_input;
  std::size_t consumed = 0;
  if (task.handshake == nullptr) {
    Begun begun = begin(slot, fd, task);
    if (begun == Begun::waits) return wait_for_agent(task);
    if (begun == Begun::failed) return HandshakeStep::failed;
    task.agent_since_ns = 0;
    if (slot.direction == Direction::outbound) {
      progress = task.handshake->advance({}, consumed, task.output);
    }
  } else if (task.wants_signature) {
    progress = go_on_with_signature(task);
  }
  for (;;) {
    if (progress == Progress::need_signature) progress = go_on_with_signature(task);
    if (progress == Progress::need_signature) return wait_for_agent(task);
    if (progress == Progress::failed) return fail(slot, fd, task);
    if (progress == Progress::finished) return finish(slot, fd, task);
    int error = send_output(fd, task);
    if (error == EAGAIN) return HandshakeStep::wants_write;
    if (error != 0) {
      fail_closed(slot, fd,
                  error == EPIPE ? Reason::peer_closed_in_handshake : reason_of_send(error));
      return HandshakeStep::failed;
    }
    long got = read_record(fd, task);
    if (got <= 0 && !task.input.empty()) {
      // The first bytes of a record may tell that it is none.
      progress = task.handshake->advance(task.input, consumed, task.output);
      if (progress == Progress::failed) return fail(slot, fd, task);
    }
    if (got == -EAGAIN) return HandshakeStep::wants_read;
    if (got <= 0) {
      fail_closed(
          slot, fd,
          got == 0 ? Reason::peer_closed_in_handshake : reason_of_send(static_cast<int>(-got)));
      return HandshakeStep::failed;
    }
    progress = task.handshake->advance(task.input, consumed, task.output);
    task.input.clear();
  }
}

}  // namespace

HandshakeStep step_handshake(Slot &slot, int fd, Task &task) noexcept {
  // The only place where allocation may throw; a handshake without memory is one that failed.
  try {
    return step(slot, fd, task);
  } catch (...) {
    fail_closed(slot, fd, Reason::out_of_resources, "no memory for a handshake");
    return HandshakeStep::failed;
  }
}

std::int64_t deadline_left(const Task &task, std::int64_t now_ns) noexcept {
  const policy::Policy *policy = current_policy();
  std::int64_t limit =
      std::int64_t{policy != nullptr ? policy->defaults.handshake_timeout_ms : 5000} * 1'000'000;
  if (task.agent_since_ns != 0 && task.first_byte_ns == 0)
    return task.agent_since_ns + limit - now_ns;
  std::int64_t from = task.first_byte_ns != 0 ? task.first_byte_ns : task.started_ns;
  const Local &mine = local(*task.slot);
  bool closed = mine.hidden && mine.calls.load(std::memory_order_relaxed) ==
                                   0;  // nobody but this waits for a silent peer
  if (task.first_byte_ns == 0 && task.waiting_logged && !closed) return INT64_MAX / 2;
  return from + limit - now_ns;
}

bool deadline_passed(Slot &slot, int fd, Task &task) noexcept {
  if (task.agent_since_ns != 0) {
    std::string why;
    try {
      why = agent_trouble();
    } catch (...) {
      // Out of memory: without words.
    }
    fail_closed(slot, fd, Reason::agent_unavailable, why);
    return true;
  }
  if (task.first_byte_ns == 0 && !local(slot).hidden) {
    task.waiting_logged = true;
    report(&slot, fd, Event::notice, Reason::handshake_waiting, "");
    return false;
  }
  fail_closed(slot, fd, Reason::handshake_timeout);
  return true;
}

void refire_readable(Slot &slot, int fd) noexcept {
  // tcp_set_rcvlowat calls sk_data_ready: every epoll set sees the edge again, if data is queued.
  Locked guard(slot.receive_lock);
  apply_low_water(slot, fd);
}

void refire_writable(int fd) noexcept {
  // Setting TCP_NOTSENT_LOWAT, to what it is, calls sk_write_space.
  unsigned low_water = 0;
  socklen_t length = sizeof(low_water);
  if (kernel::get_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low_water, &length) == 0) {
    kernel::set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low_water, sizeof(low_water));
  }
}

}  // namespace inlay::shim
