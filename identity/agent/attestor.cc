#include "identity/agent/attestor.h"

#include <nlohmann/json.hpp>

namespace inlay::identity::agent {
namespace {

Attestation failed(const Caller &caller, std::shared_ptr<const Config> config, Refused why) {
  Attestation out;
  out.workload.pid = caller.pid;
  out.workload.uid = caller.uid;
  out.config = std::move(config);
  out.refused = std::move(why);
  return out;
}

Attestation judge(Workload workload, std::shared_ptr<const Config> config, const Digest &digest) {
  Attestation out{.workload = std::move(workload), .config = std::move(config), .refused = {}};
  auto entry = choose(out.config->entries, out.workload, digest);
  if (entry) {
    out.entry = *entry;
  } else {
    out.refused = std::move(entry.error());
  }
  return out;
}

}  // namespace

void Attestor::use(std::shared_ptr<const Config> config) {
  std::lock_guard lock(mutex_);
  config_ = std::move(config);
}

std::shared_ptr<const Config> Attestor::config() const {
  std::lock_guard lock(mutex_);
  return config_;
}

Attestation Attestor::attest(const Caller &caller, int pidfd) {
  auto workload = examine(caller, pidfd);
  if (!workload) {
    return failed(caller, config(), refused(AgentRefusal::process_gone, "", workload.error()));
  }
  return judge(*std::move(workload), config(),
               [this](const Workload &of) { return digests_.digest(of); });
}

Attestation Attestor::attest_as(const Caller &caller, int pidfd, const std::string &path) {
  auto workload = examine(caller, pidfd);
  if (!workload) {
    return failed(caller, config(), refused(AgentRefusal::process_gone, "", workload.error()));
  }
  if (!path.starts_with('/')) {
    return failed(caller, config(),
                  refused(AgentRefusal::malformed, "not the full path of a program"));
  }
  // One answer for what no entry names and for what is not there: the agent may see folders that
  // the caller does not, and is not to be asked what is in them.
  auto no_entry = [](std::string detail) {
    return refused(AgentRefusal::no_entry,
                   "ask whoever runs the agent for an entry of this program, which the agent must "
                   "see at the same path",
                   std::move(detail));
  };
  auto program = look_at_program(path);
  if (!program) return failed(caller, config(), no_entry(program.error()));
  workload->executable = program->path;
  workload->executable_device = program->device;
  workload->executable_inode = program->inode;
  workload->executable_in_place = true;
  Attestation out = judge(*std::move(workload), config(), [&](const Workload &) {
    return digests_.digest_of(program->path, program->device, program->inode);
  });
  if (out.refused.refusal == AgentRefusal::no_entry && out.entry == nullptr) {
    out.refused = no_entry("no entry matches it");
  }
  return out;
}

tl::expected<std::string, std::string> Attestor::explain_json(pid_t pid) {
  auto workload = examine_any(pid);
  if (!workload) return tl::unexpected(workload.error());
  Digest digest = [this](const Workload &of) { return digests_.digest(of); };
  auto held = config();
  nlohmann::ordered_json json = {{"pid", workload->pid},
                                 {"user", workload->uid},
                                 {"group", workload->gid},
                                 {"groups", workload->groups},
                                 {"executable", workload->executable},
                                 {"unit", workload->unit},
                                 {"cgroup", workload->cgroup},
                                 {"traced_by", workload->tracer}};
  json["entries"] = nlohmann::ordered_json::array();
  for (const Entry &entry : held->entries) {
    nlohmann::ordered_json selectors = nlohmann::ordered_json::array();
    bool matches = true;
    for (const SelectorResult &result : explain(entry, *workload, digest)) {
      matches = matches && result.matches;
      selectors.push_back({{"selector", result.selector},
                           {"wanted", result.wanted},
                           {"found", result.found},
                           {"matches", result.matches}});
    }
    json["entries"].push_back({{"entry", entry.number},
                               {"spiffe_id", entry.id.uri()},
                               {"matches", matches},
                               {"selectors", std::move(selectors)}});
  }
  auto chosen = choose(held->entries, *workload, digest);
  if (chosen) {
    json["spiffe_id"] = (*chosen)->id.uri();
  } else {
    json["refused"] = name(chosen.error().refusal);
    json["why"] = chosen.error().told;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace inlay::identity::agent
