// TOML to Policy. The only file that includes toml++.
//
// Every table is read the same way: its keys are checked against the list of those known there,
// then each is taken out with its type. The first complaint ends it.
#undef TOML_SHARED_LIB  // the distribution's flags ask for its shared library
#undef TOML_HEADER_ONLY
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#define TOML_ENABLE_WINDOWS_COMPAT 0
#define TOML_FLOAT_CHARCONV 1      // else a stringstream, which asks the host program's locale
#define TOML_MAX_NESTED_VALUES 16  // the parser recurses, on the host program's stack
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <exception>
#include <initializer_list>

#include "policy/load.h"
#include "policy/values.h"

namespace inlay::policy {
namespace {

// Keys that are known, but not to this version.
constexpr std::string_view kLater[] = {"agent", "workload_api", "first"};

std::string quoted_list(std::initializer_list<std::string_view> words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

class Reader {
 public:
  Reader(std::string_view base, std::string_view file) : base_(base), file_(file) {}

  tl::expected<Policy, LoadError> read(std::string_view text);

 private:
  bool fail(const toml::source_region &where, std::string message) {
    error_ = {.file = std::string(file_),
              .line = where.begin.line,
              .column = where.begin.column,
              .message = std::move(message)};
    return false;
  }

  bool known_keys(const toml::table &table, std::string_view where,
                  std::initializer_list<std::string_view> known);

  // Each of these leaves `out` alone when the key is absent and fails when it has another type.
  bool take(const toml::table &table, std::string_view key, const toml::table **out);
  bool take(const toml::table &table, std::string_view key, std::string *out);
  template <typename T, typename Parse>
  bool take(const toml::table &table, std::string_view key, T *out, Parse parse);
  bool take_path(const toml::table &table, std::string_view key, std::string *out);
  bool take_patterns(const toml::table &table, std::string_view key, std::vector<IdPattern> *out);
  bool need(const toml::table &table, std::string_view where, std::string_view key,
            std::string_view example);
  // The strings of a list, or of a single string.
  template <typename Each>
  bool each_string(const toml::table &table, std::string_view key, std::string_view when_empty,
                   Each each);

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

  std::string_view base_;
  std::string_view file_;
  Policy policy_;
  LoadError error_;
};

bool Reader::known_keys(const toml::table &table, std::string_view where,
                        std::initializer_list<std::string_view> known) {
  // Of several unknown keys the first in the file is reported; the table is sorted by name.
  const toml::key *unknown = nullptr;
  for (auto &&[key, value] : table) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    if (unknown == nullptr || key.source().begin < unknown->source().begin) unknown = &key;
  }
  if (unknown == nullptr) return true;
  std::string_view key = unknown->str();
  if (std::find(std::begin(kLater), std::end(kLater), key) != std::end(kLater)) {
    return fail(
        unknown->source(),
        fmt::format("\"{}\" in {} is not in this version of inlay: leave it out", key, where));
  }
  return fail(unknown->source(), fmt::format("unknown key \"{}\" in {}: known here are {}", key,
                                             where, quoted_list(known)));
}

bool Reader::need(const toml::table &table, std::string_view where, std::string_view key,
                  std::string_view example) {
  if (table.contains(key)) return true;
  return fail(table.source(), fmt::format("{} has no {}: write {}", where, key, example));
}

bool Reader::take(const toml::table &table, std::string_view key, const toml::table **out) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  *out = node->as_table();
  return *out != nullptr || fail(node->source(), fmt::format("{} must be a table", key));
}

bool Reader::take(const toml::table &table, std::string_view key, std::string *out) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  const auto *value = node->as_string();
  if (value == nullptr) {
    return fail(node->source(), fmt::format("{} must be a string in quotes", key));
  }
  *out = value->get();
  return true;
}

template <typename T, typename Parse>
bool Reader::take(const toml::table &table, std::string_view key, T *out, Parse parse) {
  if (!table.contains(key)) return true;
  std::string text;
  if (!take(table, key, &text)) return false;
  auto value = parse(text);
  if (!value) return fail(table.get(key)->source(), value.error());
  *out = *std::move(value);
  return true;
}

bool Reader::take_path(const toml::table &table, std::string_view key, std::string *out) {
  return take(table, key, out, [this](std::string_view text) { return parse_path(text, base_); });
}

template <typename Each>
bool Reader::each_string(const toml::table &table, std::string_view key,
                         std::string_view when_empty, Each each) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  if (const auto *one = node->as_string()) return each(one->get(), node->source());
  const auto *list = node->as_array();
  if (list == nullptr) {
    return fail(node->source(), fmt::format("{} must be a string or a list of strings", key));
  }
  if (list->empty() && !when_empty.empty()) return fail(node->source(), std::string(when_empty));
  for (const toml::node &entry : *list) {
    const auto *value = entry.as_string();
    if (value == nullptr) {
      return fail(entry.source(), fmt::format("every entry of {} must be a string", key));
    }
    if (!each(value->get(), entry.source())) return false;
  }
  return true;
}

bool Reader::take_patterns(const toml::table &table, std::string_view key,
                           std::vector<IdPattern> *out) {
  return each_string(table, key, "", [&](const std::string &text, const toml::source_region &at) {
    auto pattern = IdPattern::parse(text);
    if (!pattern) {
      return fail(at, fmt::format("\"{}\" is no SPIFFE ID or pattern: {}", text, pattern.error()));
    }
    std::string domain(pattern->trust_domain());
    if (domain != policy_.trust_domain && key != "deny" &&
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
  toml::parse_result parsed = toml::parse(text, file_);
  if (!parsed) {
    const toml::parse_error &error = parsed.error();
    fail(error.source(), fmt::format("not TOML: {}", error.description()));
    return tl::unexpected(std::move(error_));
  }
  if (!read_top(parsed.table())) return tl::unexpected(std::move(error_));
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
  IdentityFiles &files = policy_.identity;
  bool good = known_keys(table, "[identity]", {"svid", "key", "bundle", "bundles"}) &&
              need(table, "[identity]", "svid", "svid = \"svid.pem\", the chain, leaf first") &&
              need(table, "[identity]", "key", "key = \"key.pem\"") &&
              need(table, "[identity]", "bundle", "bundle = \"bundle.pem\"") &&
              take_path(table, "svid", &files.svid) && take_path(table, "key", &files.key) &&
              take_path(table, "bundle", &files.bundle) && take(table, "bundles", &bundles);
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
                    {"inbound", "outbound", "handshake_timeout", "bare_fin"}) &&
         need(table, "[defaults]", "inbound", kModes) &&
         need(table, "[defaults]", "outbound", kModes) &&
         take(table, "inbound", &defaults.inbound, parse_mode) &&
         take(table, "outbound", &defaults.outbound, parse_mode) &&
         take(table, "handshake_timeout", &defaults.handshake_timeout_ms, parse_timeout) &&
         take(table, "bare_fin", &defaults.bare_fin, parse_bare_fin);
}

bool Reader::read_log(const toml::table &table) {
  return known_keys(table, "[log]", {"file"}) &&
         need(table, "[log]", "file", "file = \"inlay.log\"") &&
         take_path(table, "file", &policy_.log_file);
}

template <typename Rule>
bool Reader::read_rules(const toml::table &top, std::string_view key, std::vector<Rule> *out) {
  const toml::node *node = top.get(key);
  if (node == nullptr) return true;
  const toml::array *list = node->as_array();
  if (list == nullptr) {
    return fail(node->source(), fmt::format("{0} must be a list of rules: write [[{0}]]", key));
  }
  for (const toml::node &entry : *list) {
    const toml::table *table = entry.as_table();
    if (table == nullptr) {
      return fail(entry.source(), fmt::format("{0} must be a list of rules: write [[{0}]]", key));
    }
    Rule rule;
    if (!read_rule(*table, &rule)) return false;
    auto same = [&](const Rule &other) { return other.name == rule.name; };
    if (std::any_of(out->begin(), out->end(), same)) {
      return fail(table->get("name")->source(),
                  fmt::format("a second rule named \"{}\" in [[{}]]: give it a name of its own",
                              rule.name, key));
    }
    out->push_back(std::move(rule));
  }
  return true;
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
