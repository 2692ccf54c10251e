#include "identity/agent/status_report.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "identity/agent/problems.h"
#include "identity/agent_protocol.h"
#include "identity/certificate.h"

namespace inlay::identity::agent {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostEntries = 16;   // listed of one ID
constexpr std::size_t kMostProblems = 64;  // the worst

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

// A moment both for people and for programs that count.
void put_time(Json &object, const std::string &key, std::time_t time, std::time_t now) {
  if (time == 0) {
    object[key] = nullptr;
    return;
  }
  object[key] = time_text(time);
  object[key + "_in"] = time - now;
}

// What the caller may know of.
struct Visible {
  std::set<std::string, std::less<>> ids;
  std::vector<const AttachedProcess *> processes;
};

Visible visible_to_caller(const StatusInput &input) {
  Visible visible;
  for (const AttachedProcess &process : input.attached) {
    if (!input.sees_all && process.uid != input.caller) continue;
    visible.processes.push_back(&process);
    visible.ids.insert(process.spiffe_id);
  }
  for (const EntrySummary &entry : input.entries) {
    if (input.sees_all || (entry.one_uid && entry.uid == input.caller)) {
      visible.ids.insert(entry.spiffe_id);
    }
  }
  if (input.sees_all) {
    for (const auto &[id, state] : input.view->identities) visible.ids.insert(id);
  }
  return visible;
}

Json identity_json(const View &view, const std::string &id, std::time_t now) {
  const std::string why = why_no_svid(view, id, now);
  Json identity{{"spiffe_id", id}, {"ready", why.empty()}, {"why_not", why}};
  const auto found = view.identities.find(id);
  if (found == view.identities.end()) return identity;
  const IdentityState &state = found->second;
  identity["error"] = state.error;
  identity["rotations"] = state.rotations;
  identity["previous_svids"] = state.previous.size();
  if (state.current) {
    put_time(identity, "valid_from", state.current->svid.not_before, now);
    put_time(identity, "expires", state.current->svid.not_after, now);
    put_time(identity, "renews", state.current->renew_at, now);
  }
  if (!state.error.empty()) put_time(identity, "next_attempt", state.next_attempt, now);
  return identity;
}

Json process_json(const AttachedProcess &process, const View &view, std::time_t now) {
  const auto found = view.identities.find(process.spiffe_id);
  const bool newest = found != view.identities.end() && found->second.current &&
                      process.svid_expires == found->second.current->svid.not_after;
  Json json{{"pid", process.pid},
            {"uid", process.uid},
            {"executable", process.executable},
            {"spiffe_id", process.spiffe_id},
            {"has_newest_svid", newest}};
  put_time(json, "since", process.since, now);
  put_time(json, "svid_expires", process.svid_expires, now);
  return json;
}

Json problems_json(const StatusInput &input, const Visible &visible, std::time_t now) {
  Json problems = Json::array();
  const auto add = [&](Severity severity, const std::string &id, const std::string &what,
                       const std::string &to_do) {
    problems.push_back(
        {{"severity", name(severity)}, {"spiffe_id", id}, {"what", what}, {"do", to_do}});
  };
  if (visible.ids.empty()) {
    add(Severity::error, "",
        input.sees_all ? std::string("the configuration has no entry: no process gets an identity")
                       : "no entry is for user " + std::to_string(input.caller) +
                             " alone, and "
                             "none of its processes is attached",
        input.sees_all ? "write an [[entry]] in " + input.configuration
                       : "inlay run tells whether a command would get an identity");
  }
  for (const Problem &problem : problems_of(*input.view, now)) {
    const bool known =
        problem.spiffe_id.empty() ? input.sees_all : visible.ids.count(problem.spiffe_id) != 0;
    if (known && problems.size() < kMostProblems)
      add(problem.severity, problem.spiffe_id, problem.what, problem.to_do);
  }
  if (!input.sees_all) return problems;
  if (!input.configuration_error.empty()) {
    add(Severity::warning, "",
        "the changed configuration was not taken: " + input.configuration_error,
        "the one before it is in force; correct it and reload");
  }
  for (const std::string &why : input.left_out) {
    if (problems.size() >= kMostProblems) break;
    add(Severity::warning, "", why, "correct the entry where the authority runs, or this machine");
  }
  if (input.lost_log_lines != 0) {
    add(Severity::warning, "",
        std::to_string(input.lost_log_lines) + " lines of the audit log could not be written",
        "make room where it is, or correct its path");
  }
  return problems;
}

// At most `most` of the identities and of the processes are listed.
Json report_of(const StatusInput &input, std::time_t now, std::size_t most) {
  const View &view = *input.view;
  const Visible visible = visible_to_caller(input);
  Json report{{"version", INLAY_VERSION},   {"machine", host_name()},
              {"time", time_text(now)},     {"trust_domain", input.trust_domain},
              {"complete", input.sees_all}, {"identities", Json::array()},
              {"processes", Json::array()}, {"authorities", Json::array()}};
  Json agent{{"pid", getpid()}, {"uid", geteuid()}, {"socket", input.socket}};
  put_time(agent, "since", input.started, now);
  if (input.sees_all) agent["configuration"] = input.configuration;
  report["agent"] = std::move(agent);
  Json source{{"up", source_is_up(view)}};
  if (input.sees_all) {
    source["name"] = input.source;
    source["error"] = view.trust_error;
  }
  report["source"] = std::move(source);

  bool ready = !visible.ids.empty();
  for (const std::string &id : visible.ids) {
    const bool is_ready = why_no_svid(view, id, now).empty();
    ready = ready && is_ready;
    if (report["identities"].size() >= most) continue;
    Json identity = identity_json(view, id, now);
    identity["processes"] =
        std::count_if(visible.processes.begin(), visible.processes.end(),
                      [&](const AttachedProcess *process) { return process->spiffe_id == id; });
    Json entries = Json::array();
    for (const EntrySummary &entry : input.entries) {
      const bool mine = input.sees_all || (entry.one_uid && entry.uid == input.caller);
      if (!mine || entry.spiffe_id != id || entries.size() >= kMostEntries) continue;
      entries.push_back(entry.selectors);
    }
    identity["entries"] = std::move(entries);
    report["identities"].push_back(std::move(identity));
  }
  report["ready"] = ready;
  report["known_identities"] = visible.ids.size();
  for (std::size_t at = 0; at < std::min(visible.processes.size(), most); ++at) {
    report["processes"].push_back(process_json(*visible.processes[at], view, now));
  }
  report["attached_processes"] = visible.processes.size();
  for (const AuthoritySummary &authority : authorities_of(view.trust)) {
    Json json{{"trust_domain", authority.trust_domain}, {"subject", authority.subject}};
    put_time(json, "expires", authority.expires, now);
    report["authorities"].push_back(std::move(json));
  }
  report["problems"] = problems_json(input, visible, now);
  return report;
}

}  // namespace

std::string status_report(const StatusInput &input, std::time_t now) {
  std::size_t most = std::max(input.attached.size(), input.view->identities.size());
  for (;;) {
    std::string text =
        report_of(input, now, most).dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() <= kMaxAgentAnswer || most == 0) return text;
    most /= 2;
  }
}

}  // namespace inlay::identity::agent
