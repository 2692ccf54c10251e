// The policy model and its evaluation. Pure: nothing here does I/O. What the shim decides and what
// `inlay policy explain` prints come from the same two functions, decide() and judge_peer().
//
// Order: deny-mode rules first; then the first rule in file order that matches port and address
// (and name and caller) decides alone. A destination or port that a strict or plaintext rule names
// never falls to the default because a caller or name did not match. policy/README.md has the
// details.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/spiffe_id.h"
#include "policy/address.h"
#include "policy/reason.h"

namespace inlay::policy {

enum class Mode : std::uint8_t { plaintext, strict, deny };
enum class BareFin : std::uint8_t { error, eof };

// Both ends included. "*" is 0-65535.
struct PortRange {
  std::uint16_t first = 0;
  std::uint16_t last = 65535;
  bool operator==(const PortRange &) const = default;
};

// A pattern on parsed SPIFFE IDs: `*` does not cross `/`, `**` does; everything else is literal.
// The trust domain is always literal. Always valid once parsed. Both may stand for nothing, but
// the slashes around them stay: "/a/**" matches "/a/b" and not "/a", "/a/**/b" does not match
// "/a/b".
class IdPattern {
 public:
  // The error is one sentence for a person, without a final dot, with static storage.
  static tl::expected<IdPattern, std::string_view> parse(std::string_view text);
  std::string_view trust_domain() const noexcept;
  bool matches(const identity::SpiffeId &id) const noexcept;
  const std::string &text() const noexcept { return text_; }
  bool operator==(const IdPattern &) const = default;

 private:
  std::string text_;
};

// Conditions on who calls connect(); all that are written must hold. Globs as in glob.h; a pattern
// on an object matches its full path when it has a "/", else its base name. Advisory: code in the
// same address space can fake all three.
struct Caller {
  std::string module;      // the object that called connect; "" = any
  std::string frame;       // "OBJECT!FUNCTION" of any frame of the call stack; "" = any
  std::string executable;  // "" = any
  bool empty() const noexcept { return module.empty() && frame.empty() && executable.empty(); }
  bool operator==(const Caller &) const = default;
};

struct InboundRule {
  std::string name;
  std::vector<PortRange> ports;
  std::vector<Network> addresses;  // empty = any local address
  Mode mode = Mode::strict;
  BareFin bare_fin = BareFin::error;
  std::vector<IdPattern> allow;
  std::vector<IdPattern> deny;
  bool operator==(const InboundRule &) const = default;
};

struct OutboundRule {
  std::string name;
  std::vector<PortRange> ports;
  std::vector<Network> networks;   // of `to`; with no names either: any destination
  std::vector<std::string> names;  // of `to`: lower case, no final dot
  Mode mode = Mode::strict;
  BareFin bare_fin = BareFin::error;
  std::vector<IdPattern> expect;
  Caller caller;
  bool operator==(const OutboundRule &) const = default;
};

// Where the workload's identity comes from: an agent, or files. Absolute paths.
struct IdentitySource {
  std::string agent;                                   // its socket; "" = files
  std::string svid, key, bundle;                       // "" with an agent
  std::map<std::string, std::string> further_bundles;  // trust domain -> path
  std::string crl;  // "" = none; an agent brings its own
  bool accept_stale_crl = false;
  bool operator==(const IdentitySource &) const = default;
};

struct Defaults {
  Mode inbound = Mode::deny;
  Mode outbound = Mode::deny;
  std::uint32_t handshake_timeout_ms = 5000;
  BareFin bare_fin = BareFin::error;
  // Open sessions whose peer's certificate is revoked, or its authority removed: else they are cut.
  bool keep_distrusted = false;
  bool operator==(const Defaults &) const = default;
};

// Which file a policy was read from, and what stat said of it then: lets a process that was handed
// a snapshot notice a newer file without parsing the old one. Empty when it was not read from one.
struct Source {
  std::string file;  // absolute
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;  // st_mtim and st_ctim, nanoseconds since the epoch
  std::int64_t changed_ns = 0;
  bool operator==(const Source &) const = default;
};

struct Policy {
  std::string trust_domain;
  IdentitySource identity;
  Defaults defaults;
  std::string log_file;  // absolute; "" = none
  std::vector<InboundRule> inbound;
  std::vector<OutboundRule> outbound;
  // Names of rules that the launcher resolved: name -> addresses; matched like learned pairs.
  std::vector<std::pair<std::string, Address>> resolved;
  bool strict = false;  // `inlay run --strict`: a plaintext default becomes deny
  Source source;

  // What evaluation needs the caller to find out; lets the shim skip the work.
  bool needs_names() const noexcept;
  bool needs_module() const noexcept;
  bool needs_frames() const noexcept;
};

struct InboundQuery {
  Endpoint local{};
};

// What is not known about the caller makes deny rules match and other rules not.
struct OutboundQuery {
  Endpoint remote{};
  std::span<const std::string> names{};   // what the process resolved to this address
  std::string_view module{};              // path of the object that called connect; "" = unknown
  std::string_view executable{};          // /proc/self/exe; "" = unknown
  std::span<const std::string> frames{};  // "OBJECT!FUNCTION", innermost first
  bool frames_known = false;
  // The socket's own address when it is bound, else all zero. Only looked at for a connect to
  // 0.0.0.0, which Linux takes as one to the socket's own address.
  Address bound{};
};

inline constexpr std::uint32_t kNoRule = UINT32_MAX;

struct Decision {
  Mode mode = Mode::deny;
  // none for strict, where judge_*_peer gives it; why, for plaintext and deny.
  Reason reason = Reason::none;
  // Index into inbound or outbound; kNoRule when the default decided. For caller_not_matched the
  // first rule that names the port or destination.
  std::uint32_t rule = kNoRule;
  BareFin bare_fin = BareFin::error;
  bool operator==(const Decision &) const = default;
};

// No allocation, no syscall, noexcept: called from hooks.
Decision decide(const Policy &policy, const InboundQuery &query) noexcept;
Decision decide(const Policy &policy, const OutboundQuery &query) noexcept;

// Whether a verified peer may talk on a strict connection: deny beats allow, no match is deny.
// A strict default (rule == kNoRule) allows the workload's own trust domain. Reason::allowed, or
// why not.
Reason judge_inbound_peer(const Policy &policy, std::uint32_t rule,
                          const identity::SpiffeId &peer) noexcept;
Reason judge_outbound_peer(const Policy &policy, std::uint32_t rule,
                           const identity::SpiffeId &peer) noexcept;

// "" for kNoRule.
std::string_view rule_name(const Policy &policy, bool inbound, std::uint32_t rule) noexcept;

// "strict", "plaintext", "deny".
std::string_view name(Mode mode) noexcept;

}  // namespace inlay::policy
