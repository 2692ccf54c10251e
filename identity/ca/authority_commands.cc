// inlay ca rotate and bundle.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "identity/ca/command_words.h"
#include "identity/certificate.h"
#include "identity/file.h"

namespace inlay::identity::ca {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxBundleBytes = std::size_t{1} << 20;
constexpr std::size_t kMostNamed = 8;  // machines in a message

std::string kind_text(AuthorityKind kind) {
  return kind == AuthorityKind::jwt ? "JWT key" : std::string(name(kind));
}

// Which machines rest on each root that is on its way out, by the root's ID.
using RestingByRoot = std::map<std::string, std::vector<Resting>>;

RestingByRoot resting(const State &state, const AuthorityRows &rows) {
  RestingByRoot out;
  for (const AuthorityRow &row : rows) {
    const bool leaves =
        row.state == AuthorityState::retired || row.state == AuthorityState::tainted;
    if (row.kind != AuthorityKind::root || !leaves) continue;
    out.emplace(row.id, value_of(state.store.resting_on(row.id, state.now)));
  }
  return out;
}

// "web-1 (2 SVIDs, until …), web-2 (…)", the first of them.
std::string resting_text(const std::vector<Resting> &machines, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < std::min(machines.size(), most); ++i) {
    const Resting &it = machines[i];
    text += fmt::format("{}{} ({} SVID{}, until {})", text.empty() ? "" : ", ", it.node, it.svids,
                        it.svids == 1 ? "" : "s", time_text(it.until));
  }
  if (machines.size() > most) text += fmt::format(" and {} more", machines.size() - most);
  return text;
}

// The machines of tainted roots are cut off by their end. Throws Failure unless there are none, or
// that is wanted; what of it belongs in the audit log.
std::string judge_revocation(const State &state, const AuthorityRows &rows, bool force) {
  std::vector<Resting> machines;
  for (const AuthorityRow &row : rows) {
    if (row.kind != AuthorityKind::root || row.state != AuthorityState::tainted) continue;
    for (Resting &it : value_of(state.store.resting_on(row.id, state.now))) {
      const auto same = std::ranges::find(machines, it.node, &Resting::node);
      if (same == machines.end()) {
        machines.push_back(std::move(it));
      } else {
        same->svids += it.svids;
        same->until = std::max(same->until, it.until);
      }
    }
  }
  if (machines.empty()) return "";
  std::ranges::sort(machines, {}, &Resting::node);
  const std::string who = resting_text(machines, kMostNamed);
  if (force) return ", which cuts off " + who;
  throw Failure{fmt::format(
      "{} machine{} SVIDs under the tainted root and nothing newer: {}; wait until they have "
      "replaced them (inlay ca rotate status lists all), or cut them off with --force",
      machines.size(), machines.size() == 1 ? " has" : "s have", who)};
}

void print_authorities(const Words &options, const AuthorityRows &rows,
                       const RestingByRoot &under) {
  if (options.json()) {
    Json list = Json::array();
    for (const AuthorityRow &row : rows) {
      Json machines = Json::array();
      if (const auto found = under.find(row.id); found != under.end()) {
        for (const Resting &it : found->second) {
          machines.push_back(
              {{"node", it.node}, {"svids", it.svids}, {"until", time_text(it.until)}});
        }
      }
      list.push_back({{"id", row.id},
                      {"kind", name(row.kind)},
                      {"state", name(row.state)},
                      {"issuer", row.issuer},
                      {"created", time_text(row.created_at)},
                      {"since", time_text(row.changed_at)},
                      {"not_after", time_text(row.not_after)},
                      {"resting", std::move(machines)}});
    }
    fmt::print("{}\n", list.dump(2));
    return;
  }
  Table table({"WHAT", "STATE", "SINCE", "ENDS", "ID"});
  for (const AuthorityRow &row : rows) {
    if (row.state == AuthorityState::revoked) continue;
    table.add({kind_text(row.kind), std::string(name(row.state)), time_text(row.changed_at),
               time_text(row.not_after), row.id});
  }
  table.print();
  for (const AuthorityRow &row : rows) {
    const auto found = under.find(row.id);
    if (found == under.end() || found->second.empty()) continue;
    fmt::print("\nstill under the {} root {}: {}\n", name(row.state), row.id,
               resting_text(found->second, found->second.size()));
  }
}

FederatedBundle read_bundle(const State &state, const std::string &trust_domain,
                            const std::string &file) {
  if (!valid_trust_domain(trust_domain)) {
    throw Failure{fmt::format("\"{}\" is no trust domain", printable(trust_domain))};
  }
  if (trust_domain == state.config.trust_domain) {
    throw Failure{
        fmt::format("{} is this authority's own trust domain: its bundle is made here "
                    "(inlay ca bundle show)",
                    trust_domain)};
  }
  const auto content = read_file(file, kMaxBundleBytes);
  if (!content) throw Failure{fmt::format("cannot read {}: {}", file, content.error())};
  const auto bundle = parse_trust_domain_bundle(content->bytes);
  if (!bundle) throw Failure{fmt::format("{}: {}", file, bundle.error().message)};
  return {trust_domain, content->bytes, state.now};
}

int list_bundles(const Words &options) {
  State state = open_state(options);
  const auto bundles = value_of(state.store.bundles());
  if (options.json()) {
    Json list = Json::array();
    for (const FederatedBundle &bundle : bundles) {
      list.push_back(
          {{"trust_domain", bundle.trust_domain}, {"since", time_text(bundle.changed_at)}});
    }
    fmt::print("{}\n", list.dump(2));
    return 0;
  }
  if (bundles.empty()) {
    fmt::print(
        "no bundle of another trust domain; give one: inlay ca bundle set TRUST-DOMAIN "
        "FILE\n");
    return 0;
  }
  Table table({"TRUST DOMAIN", "SINCE"});
  for (const FederatedBundle &bundle : bundles) {
    table.add({bundle.trust_domain, time_text(bundle.changed_at)});
  }
  table.print();
  return 0;
}

}  // namespace

int rotate_command(const std::vector<std::string> &words) {
  const std::string what = words.size() > 1 ? words[1] : "";
  const bool change =
      what == "prepare" || what == "activate" || what == "taint" || what == "revoke";
  if (!change && what != "status") {
    throw Usage{"rotate: the commands are prepare, activate, taint, revoke and status"};
  }
  const Words options(words, 2, {}, {"--now", "--force"});
  if (options.has("--now") && what != "activate") throw Usage{"--now belongs to rotate activate"};
  if (options.has("--force") && what != "revoke") throw Usage{"--force belongs to rotate revoke"};
  State state = open_state(options);
  if (change && state.config.rotation.upstream) {
    throw Failure{
        "the root is the upstream's and rotated there: give its new bundle and "
        "certificate by the files of [upstream]"};
  }
  const Signer kept = state.signer();  // whatever there must be is there
  if (change) {
    std::string detail = what;
    if (what == "revoke") {
      detail +=
          judge_revocation(state, value_of(state.store.authorities()), options.has("--force"));
    }
    value_of(state.store.change_authorities([&](AuthorityRows &rows) -> Stored<void> {
      const RotationSettings &settings = state.config.rotation;
      if (what == "prepare") return prepare_root(rows, state.seal, settings, state.now);
      if (what == "activate") {
        return activate_root(rows, state.seal, settings, state.now, options.has("--now"));
      }
      return what == "taint" ? taint_root(rows, state.now) : revoke_root(rows, state.now);
    }));
    state.audit({.event = "rotated", .detail = detail});
  }
  const AuthorityRows rows = value_of(state.store.authorities());
  print_authorities(options, rows, resting(state, rows));
  if (const Ending ending = ending_root(rows, state.now); ending.near() && !options.json()) {
    fmt::print("\n{}\n", ending.text);
  }
  return 0;
}

int bundle_command(const std::vector<std::string> &words) {
  const std::string what = words.size() > 1 ? words[1] : "";
  if (what == "show") {
    State state = open_state(Words(words, 2, {}, {}));
    fmt::print("{}\n", bundle_document(state.signer().bundle()));
    return 0;
  }
  if (what == "list") return list_bundles(Words(words, 2, {}, {}));
  if (what != "set" && what != "remove") {
    throw Usage{"bundle: the commands are show, set, list and remove"};
  }
  const Words options(words, 2, {}, {}, what == "set" ? 2 : 1);
  const std::string trust_domain = options.place(0, "the trust domain");
  const std::string file = what == "set" ? options.place(1, "the file of the bundle") : "";
  State state = open_state(options);
  if (what == "set") {
    value_of(state.store.set_bundle(read_bundle(state, trust_domain, file)));
  } else {
    value_of(state.store.remove_bundle(trust_domain));
  }
  state.audit({.event = what == "set" ? "bundle-set" : "bundle-removed", .detail = trust_domain});
  if (options.json()) {
    fmt::print("{}\n", Json({{"trust_domain", trust_domain}}).dump());
  } else {
    fmt::print("the bundle of {} is {}\n", trust_domain, what == "set" ? "in force" : "removed");
  }
  return 0;
}

}  // namespace inlay::identity::ca
