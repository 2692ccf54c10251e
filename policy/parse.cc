// TOML to Policy.
#include "identity/agent_address.h"
#include "policy/toml_reader.h"

namespace inlay::policy {
namespace {

// Keys that are known, but not to this version.
constexpr std::string_view kLater[] = {"workload_api", "first"};

class Reader : private TomlReader {
 public:
  Reader(std::string_view base, std::string_view file) : TomlReader(base, file, kLater) {}

  tl::expected<Policy, LoadError> read(std::string_view text);

 private:
  bool take_patterns(const toml::table &table, std::string_view key, std::vector<IdPattern> *out);
  bool read_top(const toml::table &top);
  bool read_identity(const toml::table &table);
  bool read_defaults(const toml::table &table);
  bool read_log(const toml::table &table);
  template <typename Rule>
  bool read_rules(const toml::table &top, std::string_view key, std::vector<Rule> *out);
  template <typename Rule>
  bool read_common(const toml::table &table, std::string_view where, Rule *rule);
  bool read_rule(const toml::table &table, InboundRule *rule);
  bool read_rule(const toml::table &table, OutboundRule *rule);
  bool read_ports(const toml::table &table, std::vector<PortRange> *out);
  bool read_port(const toml::node &node, std::vector<PortRange> *out);
  bool read_to(const toml::table &table, OutboundRule *rule);
  bool read_caller(const toml::table &table, Caller *caller);

  Policy policy_;
};

bool Reader::take_patterns(const toml::table &table, std::string_view key,
                           std::vector<IdPattern> *out) {
  return each_string(table, key, "", [&](const std::string &text, const toml::source_region &at) {
    auto pattern = IdPattern::parse(text);
    if (!pattern) {
      return fail(at, fmt::format("\"{}\" is no SPIFFE ID or pattern: {}", text, pattern.error()));
    }
    std::string domain(pattern->trust_domain());
    if (domain != policy_.trust_domain && key != "deny" && policy_.identity.agent.empty() &&
        !policy_.identity.further_bundles.contains(domain)) {
      return fail(at, fmt::format("no bundle for the trust domain of \"{}\": correct it, or write "
                                  "\"{}\" = \"FILE\" under [identity.bundles]",
                                  text, domain));
    }
    out->push_back(*std::move(pattern));
    return true;
  });
}

tl::expected<Policy, LoadError> Reader::read(std::string_view text) {
  toml::table top;
  if (!parse_text(text, &top) || !read_top(top)) return tl::unexpected(take_error());
  return std::move(policy_);
}

bool Reader::read_top(const toml::table &top) {
  const toml::table *identity = nullptr, *defaults = nullptr, *log = nullptr;
  return known_keys(top, "the file",
                    {"trust_domain", "identity", "defaults", "log", "inbound", "outbound"}) &&
         need(top, "the file", "trust_domain", "trust_domain = \"example.org\"") &&
         take(top, "trust_domain", &policy_.trust_domain, parse_trust_domain) &&
         need(top, "the file", "identity", "[identity] with svid, key and bundle") &&
         take(top, "identity", &identity) && read_identity(*identity) &&
         need(top, "the file", "defaults", "[defaults] with inbound and outbound") &&
         take(top, "defaults", &defaults) && read_defaults(*defaults) && take(top, "log", &log) &&
         (log == nullptr || read_log(*log)) && read_rules(top, "inbound", &policy_.inbound) &&
         read_rules(top, "outbound", &policy_.outbound);
}

bool Reader::read_identity(const toml::table &table) {
  const toml::table *bundles = nullptr;
  IdentitySource &files = policy_.identity;
  if (table.contains("agent")) {
    return known_keys(table, "an [identity] with an agent", {"agent", "stale_crl"}) &&
           take(table, "stale_crl", &files.accept_stale_crl, parse_stale_crl) &&
           take(table, "agent", &files.agent, identity::parse_agent_address);
  }
  bool good = known_keys(table, "[identity]",
                         {"agent", "svid", "key", "bundle", "bundles", "crl", "stale_crl"}) &&
              need(table, "[identity]", "svid",
                   "svid = \"svid.pem\", the chain, leaf first (with key and bundle), or "
                   "agent = \"unix:///run/inlay/agent.sock\"") &&
              need(table, "[identity]", "key", "key = \"key.pem\"") &&
              need(table, "[identity]", "bundle", "bundle = \"bundle.pem\"") &&
              take_path(table, "svid", &files.svid) && take_path(table, "key", &files.key) &&
              take_path(table, "bundle", &files.bundle) && take(table, "bundles", &bundles) &&
              take_path(table, "crl", &files.crl) &&
              take(table, "stale_crl", &files.accept_stale_crl, parse_stale_crl);
  if (!good || bundles == nullptr) return good;
  for (auto &&[key, value] : *bundles) {
    auto domain = parse_trust_domain(key.str());
    if (!domain) return fail(key.source(), domain.error());
    if (*domain == policy_.trust_domain) {
      return fail(key.source(),
                  fmt::format("\"{}\" is this workload's own trust domain: its bundle "
                              "is the key bundle of [identity]",
                              *domain));
    }
    if (!take_path(*bundles, key.str(), &files.further_bundles[*domain])) return false;
  }
  return true;
}

bool Reader::read_defaults(const toml::table &table) {
  Defaults &defaults = policy_.defaults;
  constexpr std::string_view kModes = "\"plaintext\", \"strict\" or \"deny\"";
  return known_keys(table, "[defaults]",
                    {"inbound", "outbound", "handshake_timeout", "bare_fin", "distrusted"}) &&
         need(table, "[defaults]", "inbound", kModes) &&
         need(table, "[defaults]", "outbound", kModes) &&
         take(table, "inbound", &defaults.inbound, parse_mode) &&
         take(table, "outbound", &defaults.outbound, parse_mode) &&
         take(table, "handshake_timeout", &defaults.handshake_timeout_ms, parse_timeout) &&
         take(table, "bare_fin", &defaults.bare_fin, parse_bare_fin) &&
         take(table, "distrusted", &defaults.keep_distrusted, parse_distrusted);
}

bool Reader::read_log(const toml::table &table) {
  return known_keys(table, "[log]", {"file"}) &&
         need(table, "[log]", "file", "file = \"inlay.log\"") &&
         take_path(table, "file", &policy_.log_file);
}

template <typename Rule>
bool Reader::read_rules(const toml::table &top, std::string_view key, std::vector<Rule> *out) {
  return each_table(top, key, "rules", [&](const toml::table &table) {
    Rule rule;
    if (!read_rule(table, &rule)) return false;
    auto same = [&](const Rule &other) { return other.name == rule.name; };
    if (std::any_of(out->begin(), out->end(), same)) {
      return fail(table.get("name")->source(),
                  fmt::format("a second rule named \"{}\" in [[{}]]: give it a name of its own",
                              rule.name, key));
    }
    out->push_back(std::move(rule));
    return true;
  });
}

// What both directions have.
template <typename Rule>
bool Reader::read_common(const toml::table &table, std::string_view where, Rule *rule) {
  rule->bare_fin = policy_.defaults.bare_fin;
  if (!need(table, where, "name", "name = \"what it is for\"") ||
      !need(table, where, "port", "a number, a list, a range \"6000-6999\", or \"*\"") ||
      !need(table, where, "mode", "\"strict\", \"plaintext\" or \"deny\"") ||
      !take(table, "name", &rule->name, parse_rule_name) || !read_ports(table, &rule->ports) ||
      !take(table, "mode", &rule->mode, parse_mode) ||
      !take(table, "bare_fin", &rule->bare_fin, parse_bare_fin)) {
    return false;
  }
  if (rule->mode == Mode::strict) return true;
  // They would look like protection that is not there.
  for (std::string_view key : {"allow", "deny", "expect", "bare_fin"}) {
    if (const toml::node *node = table.get(key)) {
      return fail(node->source(), fmt::format("{} has no meaning in a rule with mode \"{}\": leave "
                                              "it out or write mode = \"strict\"",
                                              key, name(rule->mode)));
    }
  }
  return true;
}

bool Reader::read_rule(const toml::table &table, InboundRule *rule) {
  constexpr std::string_view kWhere = "[[inbound]]";
  auto address = [&](const std::string &text, const toml::source_region &at) {
    auto network = parse_network(text);
    if (!network) return fail(at, network.error());
    rule->addresses.push_back(*network);
    return true;
  };
  if (!known_keys(table, kWhere,
                  {"name", "port", "address", "mode", "allow", "deny", "bare_fin"}) ||
      !read_common(table, kWhere, rule) ||
      !each_string(table, "address", "an empty address matches nothing: leave it out for any",
                   address)) {
    return false;
  }
  if (rule->mode != Mode::strict) return true;
  return need(table, "a strict [[inbound]]", "allow",
              fmt::format("allow = [\"spiffe://{}/**\"] or the IDs that may connect",
                          policy_.trust_domain)) &&
         take_patterns(table, "allow", &rule->allow) && take_patterns(table, "deny", &rule->deny);
}

bool Reader::read_rule(const toml::table &table, OutboundRule *rule) {
  constexpr std::string_view kWhere = "[[outbound]]";
  if (!known_keys(table, kWhere, {"name", "port", "to", "mode", "expect", "caller", "bare_fin"}) ||
      !read_common(table, kWhere, rule) || !read_to(table, rule) ||
      !read_caller(table, &rule->caller)) {
    return false;
  }
  if (rule->mode != Mode::strict) return true;
  return need(table, "a strict [[outbound]]", "expect",
              fmt::format("expect = [\"spiffe://{}/...\"], the IDs the server may have",
                          policy_.trust_domain)) &&
         take_patterns(table, "expect", &rule->expect);
}

bool Reader::read_ports(const toml::table &table, std::vector<PortRange> *out) {
  const toml::node *node = table.get("port");
  const toml::array *list = node->as_array();
  if (list == nullptr) return read_port(*node, out);
  if (list->empty())
    return fail(node->source(), "an empty port matches nothing: write \"*\" for any");
  return std::all_of(list->begin(), list->end(),
                     [&](const toml::node &entry) { return read_port(entry, out); });
}

bool Reader::read_port(const toml::node &node, std::vector<PortRange> *out) {
  if (const auto *number = node.as_integer()) {
    std::int64_t port = number->get();
    if (port < 1 || port > 65535) {
      return fail(node.source(), fmt::format("{} is no port: they go from 1 to 65535", port));
    }
    out->push_back({static_cast<std::uint16_t>(port), static_cast<std::uint16_t>(port)});
    return true;
  }
  const auto *text = node.as_string();
  if (text == nullptr) {
    return fail(node.source(), "port must be a number, a list, a range \"6000-6999\", or \"*\"");
  }
  if (text->get() == "*") {
    out->push_back(PortRange{});
    return true;
  }
  auto range = parse_port_range(text->get());
  if (!range) return fail(node.source(), range.error());
  out->push_back(*range);
  return true;
}

bool Reader::read_to(const toml::table &table, OutboundRule *rule) {
  auto add = [&](const std::string &text, const toml::source_region &at) {
    auto to = parse_destination(text);
    if (!to) return fail(at, to.error());
    if (to->network) {
      rule->networks.push_back(*to->network);
      return true;
    }
    if (rule->mode == Mode::plaintext) {
      return fail(at, fmt::format("a rule with a name (\"{}\") must be strict or deny: DNS would "
                                  "decide what goes in the clear; write an address",
                                  text));
    }
    rule->names.push_back(to->name);
    // Always the loopback addresses (RFC 6761 §6.3), resolved or not.
    if (to->name == "localhost") {
      rule->networks.push_back(*Network::parse("127.0.0.1"));
      rule->networks.push_back(*Network::parse("::1"));
    }
    return true;
  };
  return each_string(table, "to", "an empty to matches nothing: leave it out for any destination",
                     add);
}

bool Reader::read_caller(const toml::table &table, Caller *caller) {
  const toml::table *keys = nullptr;
  if (!take(table, "caller", &keys)) return false;
  if (keys == nullptr) return true;
  if (!known_keys(*keys, "caller", {"module", "frame", "executable"})) return false;
  auto pattern = [&](std::string_view key, std::string *out) {
    return take(*keys, key, out,
                [key](std::string_view text) { return parse_caller_pattern(key, text); });
  };
  if (!pattern("module", &caller->module) || !pattern("frame", &caller->frame) ||
      !pattern("executable", &caller->executable)) {
    return false;
  }
  return !caller->empty() ||
         fail(keys->source(),
              "an empty caller: write module, frame or executable, or leave it out");
}

}  // namespace

tl::expected<Policy, LoadError> parse(std::string_view toml, std::string_view base,
                                      std::string_view file) {
  try {
    return Reader(base, file).read(toml);
  } catch (const std::exception &) {  // bad_alloc
    return tl::unexpected(LoadError{.file = {}, .message = "out of memory"});
  }
}

}  // namespace inlay::policy
