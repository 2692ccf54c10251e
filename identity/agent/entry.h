// Which processes get which SPIFFE ID: the entries of the agent's configuration, and which of them
// a process matches.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/workload.h"
#include "identity/agent_protocol.h"
#include "identity/spiffe_id.h"

namespace inlay::identity::agent {

// All that are written must hold; an entry has at least one.
struct Selectors {
  std::optional<uid_t> user{};   // effective
  std::optional<gid_t> group{};  // effective
  std::vector<gid_t> groups{};   // each effective or supplementary
  std::string executable{};      // "" = not asked for, as below
  std::string link{};            // the path that was written, where it leads to another: executable
  std::string sha256{};          // of the executable, lower-case hexadecimal
  std::string unit{};            // glob (policy/glob.h)
  std::string cgroup{};          // glob
  bool empty() const noexcept;
  // "user 999, executable /usr/bin/redis-server -> /usr/bin/redis-check-rdb"
  std::string text() const;
};

struct Entry {
  std::uint32_t number = 0;  // the first is 1
  SpiffeId id;
  std::string policy_file;  // absolute
  // policy::serialize() of it; null where the entry gives an identity alone.
  std::shared_ptr<const std::string> policy;
  Selectors selectors;
  bool refuse_traced = false;
  bool workload_api = true;  // whether it may have its private key, by the Workload API
  std::string hint{};        // for clients of that (SPIFFE_Workload_API.md §5.2.1)

  std::string name() const;  // "entry 2 (spiffe://example.org/redis)"
  // Whether it makes no difference which of the two matched.
  bool gives_the_same(const Entry &other) const noexcept;
};

// Why a caller gets nothing. `told` is for whoever asked: nothing of entries that are not its own.
struct Refused {
  AgentRefusal refusal = AgentRefusal::internal;
  std::string told;    // one line
  std::string detail;  // for the audit log, beside that; may be ""
};
Refused refused(AgentRefusal refusal, std::string what_to_do = "", std::string detail = "");
std::string_view name(AgentRefusal refusal) noexcept;
std::string_view sentence(AgentRefusal refusal) noexcept;

// The hash of a process's executable, lower-case hexadecimal, or why there is none: asked for only
// when everything else matches.
using Digest = std::function<tl::expected<std::string, std::string>(const Workload &)>;

// The entry that matches; with several that give the same, the first.
tl::expected<const Entry *, Refused> choose(std::span<const Entry> entries,
                                            const Workload &workload, const Digest &digest);

struct SelectorResult {
  std::string selector;  // as it is called in the file
  std::string wanted;
  std::string found;
  bool matches = false;
};
// All selectors of an entry, for those who may know.
std::vector<SelectorResult> explain(const Entry &entry, const Workload &workload,
                                    const Digest &digest);

// Every process that matches one also matches the other, as far as the selectors alone can tell.
bool overlap(const Selectors &one, const Selectors &other);

}  // namespace inlay::identity::agent
