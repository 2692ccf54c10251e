#include <cstring>

#include <sys/syscall.h>

#include "policy/policy.h"
#include "shim/arena/kernel.h"
#include "shim/arena/published.h"
#include "shim/boot/log.h"
#include "shim/session/internal.h"
#include "shim/session/leaving.h"
#include "shim/session/lifetime.h"
#include "shim/session/runtime.h"

namespace inlay::shim {
namespace {

using policy::Direction;
using policy::Endpoint;

void set_local(boot::LogFields &fields, const Endpoint &endpoint) noexcept {
  std::memcpy(fields.local_address, endpoint.address.bytes.data(), 16);
  fields.local_port = endpoint.port;
}

void set_remote(boot::LogFields &fields, const Endpoint &endpoint) noexcept {
  std::memcpy(fields.remote_address, endpoint.address.bytes.data(), 16);
  fields.remote_port = endpoint.port;
}

void ask_kernel(boot::LogFields &fields, int fd, const Slot *slot) noexcept {
  // Of a connection that is gone getpeername() says ENOTCONN.
  if (slot != nullptr) set_remote(fields, slot->remote);
  if (fd < 0) return;
  sockaddr_storage address{};
  auto *generic = reinterpret_cast<sockaddr *>(&address);
  socklen_t length = sizeof(address);
  if (kernel::call(SYS_getsockname, fd, kernel::word(&address), kernel::word(&length)) == 0) {
    if (auto endpoint = Endpoint::from_sockaddr(generic, length)) set_local(fields, *endpoint);
  }
  length = sizeof(address);
  if (kernel::call(SYS_getpeername, fd, kernel::word(&address), kernel::word(&length)) == 0) {
    if (auto endpoint = Endpoint::from_sockaddr(generic, length)) set_remote(fields, *endpoint);
  }
}

// Rules are numbers of the policy that decided, which may not be the current one any more.
std::string_view rule_of(const policy::Policy *policy, Direction direction,
                         std::uint32_t rule) noexcept {
  if (policy == nullptr) policy = current_policy();
  if (policy == nullptr || direction == Direction::none) return {};
  return policy::rule_name(*policy, direction == Direction::inbound, rule);
}

}  // namespace

void report(const Slot *slot, int fd, policy::Event event, policy::Reason reason,
            std::string_view detail) noexcept {
  // It is in no arena, and has nothing to tell.
  if (slot != nullptr && is_closing(*slot)) slot = nullptr;
  boot::LogFields fields;
  fields.event = event;
  fields.reason = reason;
  fields.fd = fd;
  fields.detail = detail;
  ask_kernel(fields, fd, slot);
  if (slot != nullptr) {
    fields.direction = slot->direction;
    fields.rule = rule_of(local(const_cast<Slot &>(*slot)).policy, slot->direction, slot->rule);
    fields.peer_id = published(slot->peer_id);
    fields.bytes_in = slot->bytes_in.load(std::memory_order_relaxed);
    fields.bytes_out = slot->bytes_out.load(std::memory_order_relaxed);
  } else {
    fields.direction = Direction::inbound;
  }
  boot::log_event(fields);
}

void report_address(int fd, policy::Event event, policy::Reason reason, std::uint32_t rule,
                    const sockaddr *remote, socklen_t length) noexcept {
  boot::LogFields fields;
  fields.event = event;
  fields.reason = reason;
  fields.direction = Direction::outbound;
  fields.fd = fd;
  fields.rule = rule_of(nullptr, Direction::outbound, rule);
  ask_kernel(fields, fd, nullptr);
  if (auto endpoint = Endpoint::from_sockaddr(remote, length)) set_remote(fields, *endpoint);
  boot::log_event(fields);
}

}  // namespace inlay::shim
