#include "shim/boot/state.h"

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "identity/agent_address.h"
#include "policy/live.h"
#include "policy/snapshot.h"
#include "shim/boot/heap.h"
#include "shim/arena/kernel.h"
#include "shim/boot/log.h"
#include "shim/boot/sealed.h"
#include "shim/session/agent_greeting.h"
#include "shim/session/agent_link.h"

namespace inlay::shim::boot {
namespace {

// Made once with new and never destroyed: hooks of other threads run until the very end.
constinit std::atomic<policy::LivePolicy *> g_live{nullptr};
std::string *g_logged_error = nullptr;
std::string *g_agent = nullptr;  // the path of its socket; set at boot

// "FD:INODE" as the launcher wrote it; -1 when it is not that.
int parse_snapshot(const char *text, std::uint64_t *inode) noexcept {
  char *end = nullptr;
  errno = 0;
  long fd = std::strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != ':' || fd < 0 || fd > INT_MAX) return -1;
  const char *behind = end + 1;
  *inode = std::strtoull(behind, &end, 10);
  return errno != 0 || end == behind || *end != '\0' ? -1 : static_cast<int>(fd);
}

// Empty when there is no usable snapshot: the file is read then, so a broken one costs time only.
std::optional<policy::Policy> from_snapshot(const char *text) {
  std::uint64_t inode = 0;
  const int fd = parse_snapshot(text, &inode);
  if (fd < 0) return std::nullopt;
  const SealedMemory memory(fd, inode);
  if (!memory) return std::nullopt;
  kernel::close(fd);
  auto parsed = policy::deserialize(memory.bytes());
  if (!parsed) return std::nullopt;
  return *std::move(parsed);
}

// "1000,1001". What is not a number ends the list: nobody is trusted by mistake.
std::vector<uid_t> parse_owners(const char *text) {
  std::vector<uid_t> owners;
  while (text != nullptr && *text >= '0' && *text <= '9') {
    char *end = nullptr;
    errno = 0;
    unsigned long uid = std::strtoul(text, &end, 10);
    if (errno != 0 || uid > UINT32_MAX || (*end != ',' && *end != '\0')) break;
    owners.push_back(static_cast<uid_t>(uid));
    text = *end == ',' ? end + 1 : end;
  }
  return owners;
}

void log_unreadable(const std::string &detail) {
  LogFields fields;
  fields.event = policy::Event::notice;
  fields.reason = policy::Reason::policy_unreadable;
  fields.detail = detail;
  log_event(fields);
}

// The agent's answer holds for the first handshakes too.
std::unique_ptr<policy::LivePolicy> make_live_from_agent(const PolicySource &source,
                                                         std::optional<AgentGreeting> *met) {
  auto live = std::make_unique<policy::LivePolicy>("", std::vector<uid_t>{}, source.strict);
  auto path = identity::parse_agent_address(source.file);
  if (!path) {
    log_unreadable(source.file + (": " + path.error()));
    return live;
  }
  g_agent = new std::string(*std::move(path));
  auto greeting = greet_agent(*g_agent);
  if (!greeting) {
    log_unreadable(greeting.error());
    return live;
  }
  auto policy = policy::deserialize(greeting->snapshot.policy);
  if (policy) {
    live->replace(*std::move(policy));
  } else {
    log_unreadable("the agent's policy: " + std::string(policy::sentence(policy.error())));
  }
  *met = *std::move(greeting);
  return live;
}

std::unique_ptr<policy::LivePolicy> make_live(const PolicySource &source,
                                              std::optional<AgentGreeting> *met) {
  if (identity::is_agent_address(source.file)) return make_live_from_agent(source, met);
  std::vector<uid_t> owners = parse_owners(source.owners);
  std::optional<policy::Policy> first;
  if (source.snapshot != nullptr) first = from_snapshot(source.snapshot);
  if (first) {
    first->strict = first->strict || source.strict;
    return std::make_unique<policy::LivePolicy>(*std::move(first), std::move(owners));
  }
  auto live = std::make_unique<policy::LivePolicy>(source.file, std::move(owners), source.strict);
  live->refresh();
  return live;
}

void log_error(const policy::LivePolicy &live) {
  if (live.last_error() == *g_logged_error) return;
  *g_logged_error = live.last_error();
  if (!live.last_error().empty()) log_unreadable(live.last_error());
}

void follow_log_file(const policy::Policy *policy) noexcept {
  start_log(policy == nullptr ? "" : policy->log_file.c_str());
}

}  // namespace

const policy::Policy *policy() noexcept {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  return live == nullptr ? nullptr : live->current();
}

std::uint64_t policy_generation() noexcept {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  return live == nullptr ? 0 : live->generation();
}

std::string_view policy_error() noexcept {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  return live == nullptr ? std::string_view("out of memory") : std::string_view(live->last_error());
}

bool policy_is_the_agents() noexcept { return g_agent != nullptr; }
const std::string &policy_agent() noexcept { return *g_agent; }

void adopt_policy(policy::Policy policy) {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  if (live != nullptr && live->replace(std::move(policy))) follow_log_file(live->current());
}

bool refresh_policy() noexcept try {
  policy::LivePolicy *live = g_live.load(std::memory_order_acquire);
  if (live == nullptr) return false;
  bool changed = live->refresh();
  if (changed) follow_log_file(live->current());
  log_error(*live);
  return changed;
} catch (const std::bad_alloc &) {
  return false;
}

void load_policy(const PolicySource &source) noexcept try {
  g_logged_error = new std::string;
  std::optional<AgentGreeting> met;
  policy::LivePolicy *live = make_live(source, &met).release();
  g_live.store(live, std::memory_order_release);
  if (met) seed_agent_link(*g_agent, met->snapshot, met->answer);
  follow_log_file(live->current());
  log_error(*live);
} catch (const std::bad_alloc &) {
  // policy() stays null: everything fails closed.
  start_log("");
}

}  // namespace inlay::shim::boot
