// How a connection becomes managed: connect, accept, and descriptors this process did not create.
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/level.h"
#include "shim/hooks/next.h"
#include "shim/session/cancel.h"
#include "shim/session/elsewhere.h"
#include "shim/session/helper.h"
#include "shim/session/holders.h"
#include "shim/session/internal.h"
#include "shim/session/leaving.h"
#include "shim/session/lifetime.h"
#include "shim/session/runtime.h"
#include "shim/session/session.h"
#include "shim/session/socket_facts.h"
#include "shim/session/untouched.h"

namespace inlay::shim {
namespace {

using policy::Decision;
using policy::Direction;
using policy::Endpoint;
using policy::Event;
using policy::Mode;
using policy::Reason;

constexpr std::uint8_t kTcpEstablished = 1;  // of the kernel's tcp_states.h
constexpr std::uint8_t kTcpClose = 7;
constexpr std::uint8_t kTcpCloseWait = 8;
constexpr char kNotSaid[] = "the kernel does not say what the socket is";

Slot *current_session(int fd) noexcept {
  std::uint64_t word = descriptor_word(fd);
  return (word & kManagedBit) != 0 ? reinterpret_cast<Slot *>(word & ~kManagedBit) : nullptr;
}

// A connection that may not happen and whose descriptor the program already has: cut in the kernel,
// remembered as failed so that every call says so. What came before the cut is not delivered either.
void refuse_connected(int fd, Direction direction, Reason reason, std::uint32_t rule,
                      const char *detail) noexcept {
  std::uint64_t cookie = beyond_table(fd) ? 0 : cookie_of(fd);
  Slot *slot = cookie == 0 ? nullptr : allocate_slot(cookie, State::handshaking);
  if (slot != nullptr) slot->remote = peer_end(fd).endpoint.value_or(Endpoint{});
  kernel::shut_down(fd, SHUT_RDWR);
  if (slot == nullptr) {
    set_descriptor_word(fd, managed_word(&closing_session()));
    report(nullptr, fd, Event::refused, reason, beyond_table(fd) ? kBeyondTable : detail);
    return;
  }
  slot->direction = direction;
  slot->rule = rule;
  local(*slot).descriptor = static_cast<std::uint32_t>(fd) + 1;
  set_descriptor_word(fd, managed_word(slot));
  fail_closed(*slot, fd, reason, detail);
}

// Makes fd managed. Null when there is no slot: the caller must fail closed.
Slot *manage(int fd, State state, Direction direction, const Decision &decision,
             const policy::Policy *policy, const Endpoint &remote) noexcept {
  std::uint64_t cookie = beyond_table(fd) ? 0 : cookie_of(fd);
  if (cookie == 0) return nullptr;
  Slot *stale = find_slot(cookie);
  // In another tree's arena it is not this process's to end.
  if (stale != nullptr && !(is_foreign_arena(arena_of(*stale)) && find_holder(*stale, this_process()) == nullptr)) {
    // A cookie outlives a connection: what is left of the previous one has no more say.
    set_state(*stale, State::failed);
    drop_session(*stale);
  }
  Slot *slot = allocate_slot(cookie, state);
  if (slot == nullptr) return nullptr;
  slot->direction = direction;
  slot->rule = decision.rule;
  slot->bare_fin = decision.bare_fin;
  slot->remote = remote;
  Local &mine = local(*slot);
  mine.descriptor = static_cast<std::uint32_t>(fd) + 1;
  mine.policy = policy;
  // The program's, or its listener's: the handshake is not to wait for so much.
  if (int low_water = int_option(fd, SOL_SOCKET, SO_RCVLOWAT, 1); low_water > 1) {
    slot->receive_low_water.store(low_water, std::memory_order_relaxed);
    apply_low_water(*slot, fd);
  }
  if (int offset = int_option(fd, SOL_SOCKET, SO_PEEK_OFF, -1); offset >= 0) {
    slot->peek_offset.store(offset, std::memory_order_relaxed);
    const int off = -1;
    kernel::call(SYS_setsockopt, fd, SOL_SOCKET, SO_PEEK_OFF, kernel::word(&off), sizeof off);
  }
  // A thread that met the socket by its cookie meanwhile may have counted the number.
  Locked life(slot->life_lock);
  slot->holders[0].descriptors.store(1, std::memory_order_release);
  set_descriptor_word(fd, managed_word(slot));
  return slot;
}

int denied(int fd, Reason reason, const Decision &decision, const sockaddr *address,
           socklen_t length) noexcept {
  report_address(fd, Event::refused, reason, decision.rule, address, length);
  errno = EACCES;
  return -1;
}

struct Attempt {
  Slot *slot;
  int fd;
  const sockaddr *address;
  socklen_t length;
};
long attempt_connect(Attempt *attempt) {
  return next.connect(attempt->fd, attempt->address, attempt->length);
}
// A thread cancelled in connect() leaves a socket that goes on connecting.
void leave_connecting(Attempt *attempt) { notify_helper(*attempt->slot); }

int connect_fresh(int fd, const sockaddr *address, socklen_t length, const Endpoint &remote,
                  const void *caller) {
  const policy::Policy *policy = current_policy();
  if (policy == nullptr) return denied(fd, Reason::policy_unreadable, {}, address, length);
  Decision decision = decide_outbound(*policy, remote, caller);
  if (decision.mode == Mode::deny) return denied(fd, decision.reason, decision, address, length);
  if (decision.mode == Mode::plaintext) {
    int result = next.connect(fd, address, length);
    if (result == 0 || errno == EINPROGRESS || errno == EINTR) {
      int saved = errno;
      set_descriptor_word(fd, kPlain);
      report_address(fd, Event::plaintext, decision.reason, decision.rule, address, length);
      errno = saved;
    }
    return result;
  }
  // A SYN must not carry data, and connect() must mean that a SYN is sent.
  int off = 0;
  kernel::set_option(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &off, sizeof(off));
  Slot *slot = manage(fd, State::connecting, Direction::outbound, decision, policy, remote);
  if (slot == nullptr) return denied(fd, Reason::out_of_resources, decision, address, length);
  local(*slot).bound = is_bound(fd);
  slot->owner.store(this_process(), std::memory_order_release);
  Attempt attempt{slot, fd, address, length};
  auto result = static_cast<int>(cancellable(attempt_connect, leave_connecting, &attempt));
  int error = result == 0 ? 0 : errno;
  if (error == 0 || error == EINPROGRESS || error == EINTR) {
    if (error == 0) {
      set_state(*slot, State::handshaking);
      // A relay that selects, and reads what is readable without more ado, would block there.
      if ((kernel::call(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK) == 0) hide_readiness(*slot, fd);
    }
    notify_helper(*slot);
  } else {
    forget_session(*slot, fd);
  }
  if (error != 0) errno = error;
  return result;
}

// connect() on a descriptor that has a session.
int connect_again(Slot &slot, int fd, const sockaddr *address, socklen_t length,
                  const void *caller) {
  if (address != nullptr && length >= sizeof(sa_family_t) && address->sa_family == AF_UNSPEC) {
    int result = next.connect(fd, address, length);
    if (result == 0) forget_session(slot, fd);
    return result;
  }
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
      info.tcpi_state == kTcpClose) {
    // The attempt before failed: this is a new connection, and a new decision.
    forget_session(slot, fd);
    return connect_socket(fd, address, length, caller);
  }
  int result = next.connect(fd, address, length);
  int saved = errno;
  if (slot.state.load(std::memory_order_acquire) == State::connecting) notify_helper(slot);
  errno = saved;
  return result;
}

int unread(int fd) noexcept {
  int bytes = 0;
  kernel::call(SYS_ioctl, fd, FIONREAD, kernel::word(&bytes));
  return bytes;
}

// A TCP socket without a peer: never connected, or a connection that another process ended. What had
// come by then is nobody's, unless it may have been in the clear. `before`: the number's word as it was.
Slot *without_peer(int fd, std::uint64_t before) noexcept {
  // A multipath socket without a connection says FIONREAD 1.
  char byte;
  if (unread(fd) > 0 && kernel::receive(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
    const policy::Policy *policy = current_policy();
    const std::optional<Endpoint> here = own_end(fd).endpoint;
    if (policy == nullptr || !here ||
        policy::decide(*policy, policy::InboundQuery{*here}).mode != Mode::plaintext) {
      refuse_connected(fd, Direction::none, Reason::inherited_unknown, policy::kNoRule, "");
      return current_session(fd);
    }
  }
  return replace_descriptor_word(fd, before, kSocket) ? nullptr : current_session(fd);
}

// A connected socket that came without a session: inherited over exec, passed by a process without
// inlay, or made by a call no hook sees. `connected_here`: seen before it was connected, so nobody
// else began on it.
Slot *adopt(int fd, bool connected_here = false) noexcept {
  const std::uint64_t before = descriptor_word(fd);
  const policy::Policy *policy = current_policy();
  End own = own_end(fd), peer = peer_end(fd);
  if (own.unknown || peer.unknown) {
    refuse_connected(fd, Direction::none, Reason::out_of_resources, policy::kNoRule, kNotSaid);
    return current_session(fd);
  }
  std::optional<Endpoint> here = own.endpoint, there = peer.endpoint;
  if (!here || !there) return without_peer(fd, before);
  if (policy == nullptr) {
    refuse_connected(fd, Direction::none, Reason::policy_unreadable, policy::kNoRule, "");
    return current_session(fd);
  }
  Decision inbound = policy::decide(*policy, policy::InboundQuery{*here});
  Decision outbound = decide_outbound(*policy, *there, nullptr);
  bool fresh = !connected_here && is_fresh(fd);  // inetd, systemd
  if (fresh && inbound.mode == Mode::strict) {
    Slot *slot = manage(fd, State::waiting, Direction::inbound, inbound, policy, *there);
    if (slot == nullptr) {
      refuse_connected(fd, Direction::inbound, Reason::out_of_resources, inbound.rule, "");
    }
    return current_session(fd);
  }
  if (inbound.mode == Mode::plaintext && outbound.mode == Mode::plaintext) {
    set_descriptor_word(fd, kPlain);
    return nullptr;
  }
  if (Slot *joined = join_from_anywhere(fd)) return joined;
  refuse_connected(fd, Direction::none, Reason::inherited_unknown, policy::kNoRule, "");
  return current_session(fd);
}

}  // namespace

bool may_be_in_the_clear(int fd) noexcept {
  if (!is_tcp(fd)) return true;
  End own = own_end(fd), peer = peer_end(fd);
  if (own.unknown || peer.unknown) return false;
  std::optional<Endpoint> here = own.endpoint, there = peer.endpoint;
  if (!here || !there) return true;
  const policy::Policy *policy = current_policy();
  return policy != nullptr &&
         policy::decide(*policy, policy::InboundQuery{*here}).mode == Mode::plaintext &&
         decide_outbound(*policy, *there, nullptr).mode == Mode::plaintext;
}

bool may_connect_in_the_clear(const sockaddr *address, socklen_t length) noexcept {
  std::optional<Endpoint> remote = Endpoint::from_sockaddr(address, length);
  if (!remote) return true;
  const policy::Policy *policy = current_policy();
  Decision decision{};
  if (policy != nullptr) decision = decide_outbound(*policy, *remote, nullptr);
  if (policy != nullptr && decision.mode == Mode::plaintext) return true;
  Reason reason = policy == nullptr ? Reason::policy_unreadable
                  : decision.mode == Mode::strict ? Reason::unsupported_socket
                                                  : decision.reason;
  report_address(-1, Event::refused, reason, decision.rule, address, length);
  return false;
}

int connect_socket(int fd, const sockaddr *address, socklen_t length, const void *caller) {
  if (Slot *slot = managed(fd)) return connect_again(*slot, fd, address, length, caller);
  std::uint64_t word = descriptor_word(fd);
  if (word == kUnmanaged || address == nullptr || length < sizeof(sa_family_t)) {
    return next.connect(fd, address, length);
  }
  std::optional<Endpoint> remote = Endpoint::from_sockaddr(address, length);
  // A family that is not the socket's: EAFNOSUPPORT, nothing for policy to decide.
  bool other_family =
      address->sa_family != int_option(fd, SOL_SOCKET, SO_DOMAIN, address->sa_family);
  if (!remote || other_family || !is_tcp(fd)) {
    if (address->sa_family == AF_UNSPEC && word == kPlain) set_descriptor_word(fd, kSocket);
    return next.connect(fd, address, length);
  }
  if (word == kPlain && int_option(fd, SOL_SOCKET, SO_ERROR, 0) == 0 && peer_end(fd).endpoint) {
    return next.connect(fd, address, length);  // already connected: the kernel says EISCONN
  }
  return connect_fresh(fd, address, length, *remote, caller);
}

ssize_t connect_and_send(int fd, const msghdr *message, int flags, const void *caller) {
  const auto *address = static_cast<const sockaddr *>(message->msg_name);
  if (address == nullptr || !is_tcp(fd)) return next.sendmsg(fd, message, flags);
  int connected = connect_socket(fd, address, message->msg_namelen, caller);
  Slot *slot = managed(fd);
  if (connected != 0 && !(slot != nullptr && errno == EINPROGRESS)) return -1;
  if (slot != nullptr) return send_message(*slot, fd, message, flags & ~MSG_FASTOPEN);
  msghdr plain = *message;
  plain.msg_name = nullptr;
  plain.msg_namelen = 0;
  return next.sendmsg(fd, &plain, flags & ~MSG_FASTOPEN);
}

int accepted(int, int fd) noexcept {
  const int saved = errno;
  forget_descriptor(fd);
  End own = own_end(fd);
  const std::optional<Endpoint> &here = own.endpoint;
  if (!own.exists() || !is_tcp(fd)) {
    set_descriptor_word(fd, kUnmanaged);
    errno = saved;
    return fd;
  }
  if (own.unknown) {
    refuse_connected(fd, Direction::inbound, Reason::out_of_resources, policy::kNoRule, kNotSaid);
    errno = saved;
    return fd;
  }
  const policy::Policy *policy = current_policy();
  if (policy == nullptr) {
    refuse_connected(fd, Direction::inbound, Reason::policy_unreadable, policy::kNoRule, "");
    errno = saved;
    return fd;
  }
  Decision decision = policy::decide(*policy, policy::InboundQuery{*here});
  if (decision.mode == Mode::plaintext) {
    set_descriptor_word(fd, kPlain);
    report(nullptr, fd, Event::plaintext, decision.reason, "");
  } else if (decision.mode == Mode::deny) {
    refuse_connected(fd, Direction::inbound, decision.reason, decision.rule, "");
  } else if (Slot *slot = manage(fd, State::waiting, Direction::inbound, decision, policy,
                                 peer_end(fd).endpoint.value_or(Endpoint{}))) {
    local(*slot).accepted_at = givings() + 1;
    if ((kernel::call(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK) == 0) hide_readiness(*slot, fd);
  } else {
    refuse_connected(fd, Direction::inbound, Reason::out_of_resources, decision.rule, "");
  }
  errno = saved;
  return fd;
}

// There is no word for such a number: what may not be in the clear ends, whoever else has it.
static Slot *probe_beyond_table(int fd) noexcept {
  if (!is_tcp(fd) || int_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0) != 0) return nullptr;
  End own = own_end(fd), peer = peer_end(fd);
  if (own.unknown || peer.unknown) return &closing_session();
  std::optional<Endpoint> here = own.endpoint, there = peer.endpoint;
  if (!here || !there) {
    // Ended by an earlier look: what had come by then is nobody's.
    return unread(fd) > 0 ? &closing_session() : nullptr;
  }
  if (Slot *slot = find_slot(cookie_of(fd))) {
    fail_closed(*slot, fd, Reason::out_of_resources, kBeyondTable);
    return &closing_session();
  }
  const policy::Policy *policy = current_policy();
  if (policy != nullptr &&
      policy::decide(*policy, policy::InboundQuery{*here}).mode == Mode::plaintext &&
      decide_outbound(*policy, *there, nullptr).mode == Mode::plaintext) {
    return nullptr;
  }
  tcp_info info{};
  socklen_t size = sizeof(info);
  kernel::get_option(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
  if (info.tcpi_state == kTcpEstablished || info.tcpi_state == kTcpCloseWait) {
    refuse_connected(fd, Direction::none, Reason::out_of_resources, policy::kNoRule, "");
  }
  return &closing_session();
}

Slot *probe_descriptor(int fd) noexcept {
  // Inert, or in the middle of booting: there are no sessions, and nothing may be made of a socket.
  if (fd < 0 || !boot::active()) return nullptr;
  const int saved = errno;
  if (beyond_table(fd)) {
    Slot *failed = probe_beyond_table(fd);
    errno = saved;
    return failed;
  }
  // Still none, unless it was connected past the hooks, or by another process that has the socket.
  const std::uint64_t before = descriptor_word(fd);
  bool was_unconnected = before == kSocket;
  if (was_unconnected && !peer_end(fd).exists()) {
    errno = saved;
    return nullptr;
  }
  SocketKind kind = socket_kind(fd);
  Slot *found = nullptr;
  if (kind != SocketKind::none && in_foreign_process()) {
    // A vfork child: its numbers are not its parent's, whose table this is.
    found = kind == SocketKind::tcp ? find_slot(cookie_of(fd)) : nullptr;
    if (found == nullptr && kind == SocketKind::tcp && peer_end(fd).exists()) found = adopt(fd);
  } else if (kind == SocketKind::other) {
    // inlay's own files come and go unseen: what is known of their numbers would outlive them.
    if (!on_helper_thread()) set_descriptor_word(fd, kUnmanaged);
  } else if (kind == SocketKind::tcp) {
    found = join_known(cookie_of(fd), fd);
    bool is_connected = found == nullptr && is_connection(fd);
    // Another thread may have made its session since, in connect() or by a look of its own.
    if (found == nullptr) found = current_session(fd);
    if (found == nullptr && is_connected) {
      found = adopt(fd, was_unconnected);
    } else if (found == nullptr) {
      found = without_peer(fd, before);
    }
  }
  errno = saved;
  return found;
}

}  // namespace inlay::shim
