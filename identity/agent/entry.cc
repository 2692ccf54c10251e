#include "identity/agent/entry.h"

#include <fmt/format.h>

#include <algorithm>

#include "policy/glob.h"

namespace inlay::identity::agent {
namespace {

struct RefusalText {
  std::string_view name, sentence;
};
constexpr RefusalText kRefusals[] = {
#define INLAY_AGENT_REFUSAL_TEXT(id, name, sentence) {name, sentence},
    INLAY_AGENT_REFUSALS(INLAY_AGENT_REFUSAL_TEXT)
#undef INLAY_AGENT_REFUSAL_TEXT
};

const RefusalText &text_of(AgentRefusal refusal) noexcept {
  auto index = static_cast<std::size_t>(refusal);
  return kRefusals[index < std::size(kRefusals) ? index
                                                : static_cast<std::size_t>(AgentRefusal::internal)];
}

bool has_group(const Workload &workload, gid_t group) {
  return workload.gid == group ||
         std::find(workload.groups.begin(), workload.groups.end(), group) != workload.groups.end();
}

// Calls visit(SelectorResult) for each selector the entry has, the costly one last, until it
// returns false.
template <typename Visit>
bool each_selector(const Entry &entry, const Workload &workload, const Digest &digest,
                   Visit visit) {
  const Selectors &wanted = entry.selectors;
  auto shown = [](std::string text) { return text.empty() ? std::string("none") : text; };
  auto numbers = [](const std::vector<gid_t> &groups) {
    return fmt::format("{}", fmt::join(groups, " "));
  };
  if (wanted.user &&
      !visit(SelectorResult{"user", fmt::to_string(*wanted.user), fmt::to_string(workload.uid),
                            *wanted.user == workload.uid})) {
    return false;
  }
  if (wanted.group &&
      !visit(SelectorResult{"group", fmt::to_string(*wanted.group), fmt::to_string(workload.gid),
                            *wanted.group == workload.gid})) {
    return false;
  }
  if (!wanted.groups.empty() &&
      !visit(SelectorResult{"groups", numbers(wanted.groups),
                            fmt::format("{} {}", workload.gid, numbers(workload.groups)),
                            std::all_of(wanted.groups.begin(), wanted.groups.end(),
                                        [&](gid_t g) { return has_group(workload, g); })})) {
    return false;
  }
  if (!wanted.executable.empty()) {
    bool same_path = wanted.executable == workload.executable;
    std::string found = workload.executable;
    if (same_path && !workload.executable_in_place) {
      found += " of another mount namespace, or replaced since it was started: restart it then";
    }
    if (!visit(SelectorResult{"executable", wanted.executable, shown(std::move(found)),
                              same_path && workload.executable_in_place})) {
      return false;
    }
  }
  if (!wanted.unit.empty() &&
      !visit(SelectorResult{"unit", wanted.unit, shown(workload.unit),
                            policy::glob_matches(wanted.unit, workload.unit)})) {
    return false;
  }
  if (!wanted.cgroup.empty() &&
      !visit(SelectorResult{"cgroup", wanted.cgroup, shown(workload.cgroup),
                            policy::glob_matches(wanted.cgroup, workload.cgroup)})) {
    return false;
  }
  if (!wanted.sha256.empty()) {
    auto found = digest(workload);
    bool matches = found && *found == wanted.sha256;
    if (!visit(SelectorResult{"sha256", wanted.sha256, found ? *found : found.error(), matches})) {
      return false;
    }
  }
  return true;
}

bool matches(const Entry &entry, const Workload &workload, const Digest &digest) {
  return each_selector(entry, workload, digest,
                       [](const SelectorResult &result) { return result.matches; });
}

// Whether everything that `narrow` lets through, `wide` does. Of a pattern only what it says
// literally is compared.
bool text_implies(const std::string &narrow, const std::string &wide) {
  if (wide.empty()) return true;
  return narrow == wide || (!narrow.empty() && narrow.find('*') == std::string::npos &&
                            policy::glob_matches(wide, narrow));
}

bool implies(const Selectors &narrow, const Selectors &wide) {
  auto in_narrow = [&](gid_t group) {
    return narrow.group == group ||
           std::find(narrow.groups.begin(), narrow.groups.end(), group) != narrow.groups.end();
  };
  return (!wide.user || narrow.user == wide.user) && (!wide.group || narrow.group == wide.group) &&
         std::all_of(wide.groups.begin(), wide.groups.end(), in_narrow) &&
         (wide.executable.empty() || narrow.executable == wide.executable) &&
         (wide.sha256.empty() || narrow.sha256 == wide.sha256) &&
         text_implies(narrow.unit, wide.unit) && text_implies(narrow.cgroup, wide.cgroup);
}

}  // namespace

bool Selectors::empty() const noexcept {
  return !user && !group && groups.empty() && executable.empty() && sha256.empty() &&
         unit.empty() && cgroup.empty();
}

std::string Selectors::text() const {
  std::vector<std::string> out;
  if (user) out.push_back(fmt::format("user {}", *user));
  if (group) out.push_back(fmt::format("group {}", *group));
  if (!groups.empty()) out.push_back(fmt::format("groups {}", fmt::join(groups, " ")));
  if (!executable.empty()) {
    out.push_back(fmt::format("executable {}{}{}", link, link.empty() ? "" : " -> ", executable));
  }
  if (!sha256.empty()) out.push_back("sha256 " + sha256);
  if (!unit.empty()) out.push_back("unit " + unit);
  if (!cgroup.empty()) out.push_back("cgroup " + cgroup);
  return fmt::format("{}", fmt::join(out, ", "));
}

std::string Entry::name() const { return fmt::format("entry {} ({})", number, id.uri()); }

bool Entry::gives_the_same(const Entry &other) const noexcept {
  // One from the authority has no file. Those of the configuration are judged before their files
  // are read.
  const bool same_text =
      !policy || !other.policy ? !policy == !other.policy : *policy == *other.policy;
  return id == other.id && policy_file == other.policy_file && same_text && hint == other.hint &&
         refuse_traced == other.refuse_traced && workload_api == other.workload_api;
}

Refused refused(AgentRefusal refusal, std::string what_to_do, std::string detail) {
  Refused out{
      .refusal = refusal, .told = std::string(sentence(refusal)), .detail = std::move(detail)};
  if (!what_to_do.empty()) out.told += ": " + what_to_do;
  return out;
}

std::string_view name(AgentRefusal refusal) noexcept { return text_of(refusal).name; }
std::string_view sentence(AgentRefusal refusal) noexcept { return text_of(refusal).sentence; }

tl::expected<const Entry *, Refused> choose(std::span<const Entry> entries,
                                            const Workload &workload, const Digest &digest) {
  std::vector<const Entry *> found;
  for (const Entry &entry : entries) {
    if (matches(entry, workload, digest)) found.push_back(&entry);
  }
  if (found.empty()) {
    return tl::unexpected(refused(
        AgentRefusal::no_entry,
        fmt::format("ask whoever runs the agent for an entry (inlay agent entries test --pid {})",
                    workload.pid)));
  }
  std::vector<std::string> names;
  for (const Entry *entry : found) names.push_back(entry->name());
  for (const Entry *entry : found) {
    if (!entry->gives_the_same(*found.front())) {
      return tl::unexpected(
          refused(AgentRefusal::several_entries,
                  fmt::format("{}: narrow their selectors", fmt::join(names, ", "))));
    }
  }
  if (found.front()->refuse_traced && workload.tracer != 0) {
    return tl::unexpected(refused(AgentRefusal::traced, "detach the debugger",
                                  fmt::format("by process {}", workload.tracer)));
  }
  return found.front();
}

std::vector<SelectorResult> explain(const Entry &entry, const Workload &workload,
                                    const Digest &digest) {
  std::vector<SelectorResult> out;
  each_selector(entry, workload, digest, [&](SelectorResult result) {
    out.push_back(std::move(result));
    return true;
  });
  return out;
}

bool overlap(const Selectors &one, const Selectors &other) {
  return implies(one, other) || implies(other, one);
}

}  // namespace inlay::identity::agent
