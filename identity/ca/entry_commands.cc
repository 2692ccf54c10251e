// inlay ca entry add, list and remove.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "identity/ca/command_words.h"
#include "identity/ca/selectors.h"
#include "identity/certificate.h"
#include "identity/file.h"
#include "policy/glob.h"
#include "policy/load.h"

namespace inlay::identity::ca {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Entry &entry) {
  return {{"id", entry.id},
          {"spiffe_id", entry.spiffe_id},
          {"nodes", entry.nodes},
          {"selectors", entry.selectors},
          {"policy", entry.policy},
          {"hint", entry.hint},
          {"svid_ttl", entry.svid_ttl},
          {"workload_api", entry.workload_api},
          {"refuse_traced", entry.refuse_traced},
          {"federates_with", entry.federates_with}};
}

void print_json(const Json &json) {
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

std::string workload_id(const State &state, const std::string &text) {
  const auto id = SpiffeId::parse(text);
  if (!id) {
    throw Failure{fmt::format("\"{}\" is no SPIFFE ID: {}", printable(text), sentence(id.error()))};
  }
  if (id->trust_domain() != state.config.trust_domain || id->path().empty()) {
    throw Failure{fmt::format("{} is no workload of the trust domain {}", id->uri(),
                              state.config.trust_domain)};
  }
  return id->uri();
}

// A policy is looked at here: a bad one would be refused by every machine later.
std::string policy_of(const State &state, const std::string &file) {
  const auto content = read_file(file, policy::kMaxConfigSize);
  if (!content) throw Failure{fmt::format("cannot read {}: {}", file, content.error())};
  const auto parsed = policy::parse(content->bytes, "/", file);
  if (!parsed) throw Failure{parsed.error().text()};
  if (parsed->trust_domain != state.config.trust_domain) {
    throw Failure{fmt::format("{}: its trust domain is {}, the authority's is {}", file,
                              parsed->trust_domain, state.config.trust_domain)};
  }
  return content->bytes;
}

// Of whom it federates with, whose peers could not be believed yet.
std::vector<std::string> without_bundle(const State &state, const Entry &entry) {
  const auto known = value_of(state.store.bundles());
  std::vector<std::string> out = entry.federates_with;
  std::erase_if(out, [&](const std::string &domain) {
    return std::ranges::any_of(known, [&](const auto &one) { return one.trust_domain == domain; });
  });
  return out;
}

int add(const Words &options) {
  State state = open_state(options);
  Entry entry;
  entry.spiffe_id = workload_id(state, options.one("--id"));
  entry.nodes = options.one("--node");
  if (entry.nodes.empty() || entry.nodes.size() > policy::kMaxGlobLength ||
      entry.nodes.find_first_of("/ \n") != std::string::npos) {
    throw Failure{"--node: it is the name of a machine, or a pattern with *"};
  }
  for (const std::string &text : options.all("--selector")) {
    auto selector = parse_selector(text);
    if (!selector) throw Failure{std::move(selector.error())};
    entry.selectors.push_back(std::move(*selector));
  }
  if (entry.selectors.empty()) {
    throw Usage{
        "an entry without --selector would give its ID to every program: add one, as "
        "--selector user=redis"};
  }
  if (options.has("--policy")) entry.policy = policy_of(state, options.one("--policy"));
  for (const std::string &domain : options.all("--federates-with")) {
    if (!valid_trust_domain(domain) || domain == state.config.trust_domain) {
      throw Failure{
          fmt::format("--federates-with {}: it is no other trust domain", printable(domain))};
    }
    entry.federates_with.push_back(domain);
  }
  if (options.has("--ttl")) {
    const auto lifetime = parse_lifetime(options.one("--ttl"), 60, 7 * 86400);
    if (!lifetime) throw Failure{"--ttl: " + lifetime.error()};
    entry.svid_ttl = static_cast<std::uint32_t>(*lifetime);
  }
  entry.hint = options.one_or("--hint", "");
  entry.workload_api = !options.has("--no-workload-api");
  entry.refuse_traced = options.has("--refuse-traced");
  entry.created_at = state.now;
  const Entry added = value_of(state.store.add_entry(std::move(entry)));
  state.audit({.event = "entry-added",
               .node = added.nodes,
               .spiffe_id = added.spiffe_id,
               .detail = fmt::format("{}: {}", added.id, fmt::join(added.selectors, " "))});
  if (options.json()) {
    print_json(json_of(added));
  } else {
    fmt::print("{} added: {} on {}\n", added.id, added.spiffe_id, added.nodes);
    for (const std::string &domain : without_bundle(state, added)) {
      fmt::print(stderr,
                 "there is no bundle of {0} yet; give one: inlay ca bundle set {0} FILE, or a "
                 "[[federation]]\n",
                 domain);
    }
  }
  return 0;
}

int list(const Words &options) {
  State state = open_state(options);
  const auto entries = value_of(state.store.entries());
  if (options.json()) {
    Json all = Json::array();
    for (const Entry &entry : entries) all.push_back(json_of(entry));
    print_json(all);
    return 0;
  }
  if (entries.empty()) {
    fmt::print(
        "no entries yet; add one: inlay ca entry add --id spiffe://{}/redis --node NAME "
        "--selector user=redis\n",
        state.config.trust_domain);
    return 0;
  }
  Table table({"ENTRY", "SPIFFE ID", "ON", "POLICY", "WHO"});
  for (const Entry &entry : entries) {
    table.add({entry.id, entry.spiffe_id, entry.nodes, entry.policy.empty() ? "no" : "yes",
               printable(fmt::format("{}", fmt::join(entry.selectors, " ")))});
  }
  table.print();
  return 0;
}

}  // namespace

int entry_command(const std::vector<std::string> &words) {
  const std::string what = words.size() > 1 ? words[1] : "";
  if (what == "add") {
    return add(
        Words(words, 2,
              {"--id", "--node", "--selector", "--policy", "--federates-with", "--ttl", "--hint"},
              {"--no-workload-api", "--refuse-traced"}));
  }
  if (what == "list") return list(Words(words, 2, {}, {}));
  if (what != "remove") throw Usage{"entry: the commands are add, list and remove"};
  const Words options(words, 2, {}, {}, 1);
  const std::string id = options.place(0, "the entry's ID");
  State state = open_state(options);
  const Entry gone = value_of(state.store.remove_entry(id));
  state.audit({.event = "entry-removed",
               .node = gone.nodes,
               .spiffe_id = gone.spiffe_id,
               .detail = gone.id});
  if (options.json()) {
    print_json(json_of(gone));
  } else {
    fmt::print("{} removed: {} on {}\n", gone.id, gone.spiffe_id, gone.nodes);
  }
  return 0;
}

}  // namespace inlay::identity::ca
