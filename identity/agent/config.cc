#include "identity/agent/config.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

#include "identity/agent/config_values.h"
#include "identity/agent_address.h"
#include "policy/snapshot.h"
#include "policy/toml_reader.h"

namespace inlay::identity::agent {
namespace {

using policy::LoadError;
using policy::Value;

constexpr std::size_t kMaxSocketPath = 107;  // unix(7)

template <typename Id>
Value<Id> parse_number_id(std::int64_t number) {
  // The highest one means "no change" in system calls.
  if (number < 0 || number >= std::numeric_limits<Id>::max()) {
    return tl::unexpected(fmt::format("{} is no user or group", number));
  }
  return static_cast<Id>(number);
}

class ConfigReader : private policy::TomlReader {
 public:
  ConfigReader(std::string_view base, std::string_view file) : TomlReader(base, file) {}

  tl::expected<Config, LoadError> read(std::string_view text, const std::string &default_socket) {
    config_.socket = default_socket;
    toml::table top;
    if (!parse_text(text, &top) || !read_top(top)) return tl::unexpected(take_error());
    return std::move(config_);
  }

 private:
  bool read_top(const toml::table &top);
  bool read_limits(const toml::table &table);
  bool read_source(const toml::table &table);
  bool read_est(const toml::table &table);
  bool read_files(const toml::table &table);
  bool read_bundles(const toml::table &table);
  bool read_entry(const toml::table &table);
  bool read_selectors(const toml::table &table, Selectors *out);
  // A name or a number.
  template <typename Id, typename Named>
  bool read_id(const toml::node &node, std::string_view key, Id *out, Named named);
  template <typename Id, typename Named>
  bool take_id(const toml::table &table, std::string_view key, std::optional<Id> *out, Named named);
  bool check_ambiguity(const toml::table &table, const Entry &entry);

  Config config_;
};

bool ConfigReader::read_top(const toml::table &top) {
  const toml::table *source = nullptr, *svid = nullptr, *metrics = nullptr, *log = nullptr;
  const toml::table *limits = nullptr;
  bool good = known_keys(top, "the file",
                         {"trust_domain", "socket", "source", "svid", "metrics", "log", "limits",
                          "entry"}) &&
              need(top, "the file", "trust_domain", "trust_domain = \"example.org\"") &&
              take(top, "trust_domain", &config_.trust_domain, policy::parse_trust_domain) &&
              take_path(top, "socket", &config_.socket) &&
              need(top, "the file", "source",
                   "[source] with authority, enrolled, workload_api or [[source.svid]]") &&
              take(top, "source", &source) && read_source(*source) && take(top, "svid", &svid) &&
              take(top, "metrics", &metrics) && take(top, "log", &log) &&
              take(top, "limits", &limits) && (limits == nullptr || read_limits(*limits));
  if (!good) return false;
  if (config_.socket.size() > kMaxSocketPath) {
    return fail(top.contains("socket") ? top.get("socket")->source() : top.source(),
                "the socket's path is longer than the 107 bytes a Unix socket's may have");
  }
  if (svid != nullptr) {
    if (!known_keys(*svid, "[svid]", {"ttl"}) ||
        !take(*svid, "ttl", &config_.svid_lifetime, parse_lifetime)) {
      return false;
    }
    if (svid->contains("ttl") && config_.source.authority.empty()) {
      return fail(svid->get("ttl")->source(),
                  "ttl is for SVIDs of an authority: whoever else issues them decides that");
    }
  }
  if (metrics != nullptr &&
      !(known_keys(*metrics, "[metrics]", {"listen"}) &&
        need(*metrics, "[metrics]", "listen", "listen = \"unix:///run/inlay/metrics.sock\"") &&
        take(*metrics, "listen", &config_.metrics, parse_listen))) {
    return false;
  }
  if (log != nullptr && !(known_keys(*log, "[log]", {"file"}) &&
                          need(*log, "[log]", "file", "file = \"/var/log/inlay/agent.jsonl\"") &&
                          take_path(*log, "file", &config_.log_file))) {
    return false;
  }
  return each_table(top, "entry", "entries",
                    [&](const toml::table &table) { return read_entry(table); });
}

bool ConfigReader::read_limits(const toml::table &table) {
  constexpr std::string_view kKey = "signatures_per_second";
  return known_keys(table, "[limits]", {kKey}) && take(table, kKey, 1'000'000, &config_.signatures);
}

bool ConfigReader::read_source(const toml::table &table) {
  SourceSettings &source = config_.source;
  source.files.trust_domain = config_.trust_domain;
  if (!known_keys(
          table, "[source]",
          {"authority", "enrolled", "workload_api", "svid", "bundles", "crl", "est", "est_ca",
           "est_user", "est_password_file", "est_certificate", "est_key", "state"})) {
    return false;
  }
  int kinds = 0;
  for (std::string_view kind : {"authority", "enrolled", "workload_api", "est", "svid"}) {
    kinds += table.contains(kind) ? 1 : 0;
  }
  if (kinds != 1) {
    return fail(table.source(),
                "[source] needs exactly one of authority = \"FOLDER\", enrolled = \"FOLDER\", "
                "workload_api = \"unix:///…\", est = \"https://…\" and [[source.svid]]");
  }
  for (std::string_view key : {"bundles", "crl"}) {
    if (table.contains(key) && !table.contains("svid")) {
      return fail(table.get(key)->source(),
                  fmt::format("{} belongs to [[source.svid]]: other sources have their own", key));
    }
  }
  return take_path(table, "authority", &source.authority) &&
         take_path(table, "enrolled", &source.enrolled) &&
         take(table, "workload_api", &source.workload_api,
              [](std::string_view text) -> Value<std::string> {
                auto path = parse_agent_address(text);
                if (!path) return tl::unexpected(std::string(path.error()));
                return std::string(text);
              }) &&
         read_est(table) && read_files(table) && read_bundles(table);
}

bool ConfigReader::read_est(const toml::table &table) {
  EstSettings &est = config_.source.est;
  for (std::string_view key :
       {"est_ca", "est_user", "est_password_file", "est_certificate", "est_key", "state"}) {
    if (table.contains(key) && !table.contains("est")) {
      return fail(table.get(key)->source(), fmt::format("{} belongs to est", key));
    }
  }
  if (!table.contains("est")) return true;
  est.trust_domain = config_.trust_domain;
  if (!take(table, "est", &est.url, parse_est_url) || !take_path(table, "est_ca", &est.anchors) ||
      !take(table, "est_user", &est.user) ||
      !take_path(table, "est_password_file", &est.password_file) ||
      !take_path(table, "est_certificate", &est.certificate) ||
      !take_path(table, "est_key", &est.key) || !take_path(table, "state", &est.folder)) {
    return false;
  }
  const bool by_password = !est.user.empty() && !est.password_file.empty() && !est.folder.empty() &&
                           est.certificate.empty() && est.key.empty();
  const bool by_certificate =
      !est.certificate.empty() && !est.key.empty() && est.user.empty() && est.password_file.empty();
  if ((by_password || by_certificate) && est.user.find(':') == est.user.npos) return true;
  return fail(
      table.get("est")->source(),
      "est needs est_user, est_password_file and state, for a first contact after which the "
      "certificate renews itself, or est_certificate and est_key");
}

bool ConfigReader::read_files(const toml::table &table) {
  FilesSettings &files = config_.source.files;
  constexpr std::string_view kWhere = "[[source.svid]]";
  bool good = each_table(table, "svid", "SVIDs", [&](const toml::table &svid) {
    SvidFiles paths;
    if (!known_keys(svid, kWhere, {"svid", "key", "bundle"}) ||
        !need(svid, kWhere, "svid", "svid = \"svid.pem\", the chain, leaf first") ||
        !need(svid, kWhere, "key", "key = \"key.pem\"") ||
        !need(svid, kWhere, "bundle", "bundle = \"bundle.pem\"") ||
        !take_path(svid, "svid", &paths.svid) || !take_path(svid, "key", &paths.key) ||
        !take_path(svid, "bundle", &paths.bundle)) {
      return false;
    }
    files.svids.push_back(std::move(paths));
    return true;
  });
  return good && each_string(table, "crl", "", [&](const std::string &text, const auto &at) {
           auto path = policy::parse_path(text, base());
           if (!path) return fail(at, path.error());
           files.crls.push_back(*path);
           return true;
         });
}

bool ConfigReader::read_bundles(const toml::table &table) {
  const toml::table *bundles = nullptr;
  if (!take(table, "bundles", &bundles)) return false;
  if (bundles == nullptr) return true;
  for (auto &&[key, value] : *bundles) {
    auto domain = policy::parse_trust_domain(key.str());
    if (!domain) return fail(key.source(), domain.error());
    if (*domain == config_.trust_domain) {
      return fail(key.source(), fmt::format("\"{}\" is the own trust domain: its bundle is the key "
                                            "bundle of [[source.svid]]",
                                            *domain));
    }
    if (!take_path(*bundles, key.str(), &config_.source.files.bundles[*domain])) return false;
  }
  return true;
}

bool ConfigReader::read_entry(const toml::table &table) {
  constexpr std::string_view kWhere = "[[entry]]";
  std::string id_text;
  if (!known_keys(table, kWhere,
                  {"id", "policy", "user", "uid", "group", "gid", "groups", "executable", "sha256",
                   "unit", "cgroup", "refuse_traced", "workload_api", "hint"}) ||
      !need(table, kWhere, "id", fmt::format("id = \"spiffe://{}/redis\"", config_.trust_domain)) ||
      !take(table, "id", &id_text)) {
    return false;
  }
  auto id = SpiffeId::parse(id_text);
  if (!id) {
    return fail(table.get("id")->source(),
                fmt::format("\"{}\" is no SPIFFE ID: {}", id_text, sentence(id.error())));
  }
  if (id->trust_domain() != config_.trust_domain || id->path().empty()) {
    return fail(table.get("id")->source(),
                fmt::format("\"{}\" is no workload of the trust domain \"{}\"", id_text,
                            config_.trust_domain));
  }
  Entry entry{.number = static_cast<std::uint32_t>(config_.entries.size() + 1),
              .id = *id,
              .policy_file = {},
              .policy = {},
              .selectors = {}};
  if (!take_path(table, "policy", &entry.policy_file) ||
      !take(table, "refuse_traced", &entry.refuse_traced) ||
      !take(table, "workload_api", &entry.workload_api) || !take(table, "hint", &entry.hint) ||
      !read_selectors(table, &entry.selectors)) {
    return false;
  }
  if (entry.selectors.empty()) {
    return fail(table.source(),
                "an entry without selectors would give its ID to every process: write user, group, "
                "groups, executable, sha256, unit or cgroup");
  }
  if (!check_ambiguity(table, entry)) return false;
  config_.entries.push_back(std::move(entry));
  return true;
}

template <typename Id, typename Named>
bool ConfigReader::read_id(const toml::node &node, std::string_view key, Id *out, Named named) {
  Value<Id> id = tl::unexpected(fmt::format("{} must be a name in quotes or a number", key));
  if (const auto *number = node.as_integer()) id = parse_number_id<Id>(number->get());
  if (const auto *text = node.as_string()) id = named(text->get());
  if (!id) return fail(node.source(), id.error());
  *out = *id;
  return true;
}

template <typename Id, typename Named>
bool ConfigReader::take_id(const toml::table &table, std::string_view key, std::optional<Id> *out,
                           Named named) {
  const toml::node *node = table.get(key);
  if (node == nullptr) return true;
  if (out->has_value()) {
    return fail(node->source(), fmt::format("{} says again what this entry says already", key));
  }
  return read_id(*node, key, &out->emplace(), named);
}

bool ConfigReader::read_selectors(const toml::table &table, Selectors *out) {
  if (!take_id(table, "user", &out->user, user_named) ||
      !take_id(table, "uid", &out->user, user_named) ||
      !take_id(table, "group", &out->group, group_named) ||
      !take_id(table, "gid", &out->group, group_named)) {
    return false;
  }
  if (const toml::node *groups = table.get("groups")) {
    const toml::array *list = groups->as_array();
    if (list == nullptr || list->empty()) {
      return fail(groups->source(), "groups must be a list of names or numbers");
    }
    for (const toml::node &group : *list) {
      if (!read_id(group, "groups", &out->groups.emplace_back(), group_named)) return false;
    }
  }
  return take(table, "executable", &out->executable, parse_executable) &&
         take(table, "sha256", &out->sha256, parse_sha256) &&
         take(table, "unit", &out->unit, parse_glob) &&
         take(table, "cgroup", &out->cgroup, parse_glob);
}

bool ConfigReader::check_ambiguity(const toml::table &table, const Entry &entry) {
  for (const Entry &other : config_.entries) {
    if (other.gives_the_same(entry) || !overlap(other.selectors, entry.selectors)) continue;
    return fail(table.source(),
                fmt::format("a process may match both this entry and {}, which gives something "
                            "else: narrow the selectors of one until no process matches both",
                            other.name()));
  }
  return true;
}

}  // namespace

std::vector<SpiffeId> Config::ids() const {
  std::vector<SpiffeId> out;
  for (const Entry &entry : entries) {
    if (std::find(out.begin(), out.end(), entry.id) == out.end()) out.push_back(entry.id);
  }
  return out;
}

tl::expected<Config, LoadError> parse_config(std::string_view toml, std::string_view base,
                                             std::string_view file,
                                             const std::string &default_socket) {
  return ConfigReader(base, file).read(toml, default_socket);
}

tl::expected<Config, LoadError> load_config(const std::string &file,
                                            std::span<const uid_t> owners) {
  auto read = policy::read_configuration(file, owners);
  if (!read) return tl::unexpected(std::move(read.error()));
  auto config = parse_config(read->text, read->folder, file, default_socket_path());
  if (!config) return config;
  config->file = read->path;
  std::map<std::string, std::shared_ptr<const std::string>> policies;
  for (Entry &entry : config->entries) {
    resolve_executable(entry);
    if (entry.policy_file.empty()) continue;
    auto &block = policies[entry.policy_file];
    if (!block) {
      auto loaded = policy::load(entry.policy_file, owners);
      if (!loaded) return tl::unexpected(std::move(loaded.error()));
      if (loaded->trust_domain != config->trust_domain) {
        return tl::unexpected(
            LoadError{.file = entry.policy_file,
                      .message = fmt::format("its trust domain is \"{}\", the agent's is \"{}\"",
                                             loaded->trust_domain, config->trust_domain)});
      }
      block = std::make_shared<const std::string>(policy::serialize(*loaded));
    }
    entry.policy = block;
  }
  return config;
}

void resolve_executable(Entry &entry) {
  if (entry.selectors.executable.empty()) return;
  if (auto program = look_at_program(entry.selectors.executable)) {
    if (program->path != entry.selectors.executable) {
      entry.selectors.link = std::exchange(entry.selectors.executable, program->path);
    }
  }
}

std::string default_socket_path() {
  if (geteuid() == 0) return kAgentSocket;
  const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || *runtime != '/') {
    return fmt::format("/run/user/{}/inlay/agent.sock", geteuid());
  }
  return fmt::format("{}/inlay/agent.sock", runtime);
}

}  // namespace inlay::identity::agent
