// The policy model and its evaluation. Pure: nothing here does I/O. What the shim decides and what
// `inlay policy explain` prints come from the same two functions, decide() and judge_peer().
//
// Order (architecture: policy): deny-mode rules first; then the first rule in file order that
// matches port and address (and name and caller) decides alone. A destination or port any rule
// names never falls to the default because a caller or name did not match.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "identity/spiffe_id.h"
#include "policy/address.h"
#include "policy/reason.h"

namespace inlay::policy {

enum class Mode : std::uint8_t { plaintext, strict, deny };
enum class BareFin : std::uint8_t { error, eof };

struct PortRange {
  std::uint16_t first = 0;
  std::uint16_t last = 65535;
};

// A pattern on parsed SPIFFE IDs: `*` does not cross `/`, `**` does; everything else is literal.
// The trust domain is always literal. Always valid once parsed.
class IdPattern {
 public:
  static std::optional<IdPattern> parse(std::string_view text);
  bool matches(const identity::SpiffeId &id) const noexcept;
  const std::string &text() const noexcept { return text_; }

 private:
  std::string text_;
};

struct Caller {
  std::string module;      // glob on the base name or full path of the calling object; "" = any
  std::string frame;       // glob on "object!function" of any frame of the call stack; "" = any
  std::string executable;  // glob on the path of the executable; "" = any
  bool empty() const noexcept { return module.empty() && frame.empty() && executable.empty(); }
};

struct InboundRule {
  std::string name;
  std::vector<PortRange> ports;
  std::vector<Network> addresses;  // empty = any local address
  Mode mode = Mode::strict;
  BareFin bare_fin = BareFin::error;
  std::vector<IdPattern> allow;
  std::vector<IdPattern> deny;
};

struct OutboundRule {
  std::string name;
  std::vector<PortRange> ports;
  std::vector<Network> networks;   // of `to`
  std::vector<std::string> names;  // of `to`: lower case, no final dot
  Mode mode = Mode::strict;
  BareFin bare_fin = BareFin::error;
  std::vector<IdPattern> expect;
  Caller caller;
};

struct IdentityFiles {  // absolute paths
  std::string svid, key, bundle;
  std::map<std::string, std::string> further_bundles;
};

struct Defaults {
  Mode inbound = Mode::deny;
  Mode outbound = Mode::deny;
  std::uint32_t handshake_timeout_ms = 5000;
  BareFin bare_fin = BareFin::error;
};

struct Policy {
  std::string trust_domain;
  IdentityFiles identity;
  Defaults defaults;
  std::string log_file;  // absolute; "" = none
  std::vector<InboundRule> inbound;
  std::vector<OutboundRule> outbound;
  // Names of rules that the launcher resolved: name -> addresses; matched like learned pairs.
  std::vector<std::pair<std::string, Address>> resolved;
  bool strict = false;  // `inlay run --strict`: a plaintext default becomes deny

  // What evaluation needs the caller to find out; lets the shim skip the work.
  bool needs_names() const noexcept;
  bool needs_module() const noexcept;
  bool needs_frames() const noexcept;
};

struct InboundQuery {
  Endpoint local;
};

struct OutboundQuery {
  Endpoint remote;
  std::span<const std::string> names;   // what the process resolved to this address
  std::string_view module;              // path of the object that called connect
  std::string_view executable;          // /proc/self/exe
  std::span<const std::string> frames;  // "object!function", innermost first
  bool frames_known = false;            // false: frame deny rules match, allow rules do not
};

inline constexpr std::uint32_t kNoRule = UINT32_MAX;

struct Decision {
  Mode mode = Mode::deny;
  Reason reason = Reason::none;
  std::uint32_t rule = kNoRule;  // index into inbound or outbound
  BareFin bare_fin = BareFin::error;
  bool operator==(const Decision &) const = default;
};

// No allocation, no syscall, noexcept: called from hooks.
Decision decide(const Policy &policy, const InboundQuery &query) noexcept;
Decision decide(const Policy &policy, const OutboundQuery &query) noexcept;

// Whether a verified peer may talk on a strict connection: deny beats allow, no match is deny.
// A strict default (rule == kNoRule) allows the workload's own trust domain.
Reason judge_inbound_peer(const Policy &policy, std::uint32_t rule,
                          const identity::SpiffeId &peer) noexcept;
Reason judge_outbound_peer(const Policy &policy, std::uint32_t rule,
                           const identity::SpiffeId &peer) noexcept;

std::string_view rule_name(const Policy &policy, bool inbound, std::uint32_t rule) noexcept;

}  // namespace inlay::policy
