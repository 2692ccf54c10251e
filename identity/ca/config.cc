#include "identity/ca/config.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "identity/file.h"
#include "policy/toml_reader.h"

namespace inlay::identity::ca {
namespace {

using policy::LoadError;
using policy::Value;

constexpr std::time_t kDay = 86400;
constexpr std::uint32_t kMostRate = 100'000;
constexpr std::uint32_t kMostConnections = 1'000'000;

// HOST:PORT, without a name: what is listened on must not depend on a resolver.
Value<std::string> parse_listen(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  unsigned port = 0;
  const char *const end = text.data() + text.size();
  if (colon == text.npos || colon == 0 ||
      std::from_chars(text.data() + colon + 1, end, port).ptr != end || colon + 1 == text.size() ||
      port > 65535) {
    return tl::unexpected(fmt::format(
        "\"{}\" is no address and port: write \"0.0.0.0:8443\" or \"[::]:8443\"", text));
  }
  return std::string(text);
}

Value<std::string> parse_advertise(std::string_view text) {
  constexpr std::string_view kScheme = "https://";
  const std::string_view host = text.substr(std::min(text.size(), kScheme.size()));
  if (!text.starts_with(kScheme) || host.empty() ||
      host.find_first_of("/?#@ ") != std::string_view::npos) {
    return tl::unexpected(fmt::format(
        "\"{}\" is not where machines find this authority: write \"https://HOST:PORT\"", text));
  }
  return std::string(text);
}

// Whether it is https_web.
Value<bool> parse_profile(std::string_view text) {
  if (text == "https_web") return true;
  if (text == "https_spiffe") return false;
  return tl::unexpected(
      fmt::format("\"{}\" is no profile: write \"https_web\" or \"https_spiffe\"", text));
}

bool is_printable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c < '\x7f'; });
}

Value<std::string> parse_url_path(std::string_view text) {
  if (text.starts_with('/') && is_printable(text) && text.find_first_of("?#") == text.npos) {
    return std::string(text);
  }
  return tl::unexpected(fmt::format("\"{}\" is no path of a URL: write \"/bundle.json\"", text));
}

Value<std::string> parse_url(std::string_view text) {
  constexpr std::string_view kScheme = "https://";
  const std::string_view rest = text.substr(std::min(text.size(), kScheme.size()));
  const std::string_view host = rest.substr(0, rest.find('/'));
  if (text.starts_with(kScheme) && !host.empty() && host.find('@') == host.npos &&
      is_printable(text) && text.find('#') == text.npos) {
    return std::string(text);
  }
  return tl::unexpected(
      fmt::format("\"{}\" is no address of an endpoint: write \"https://HOST/PATH\"", text));
}

Value<std::string> parse_workload_id(std::string_view text) {
  const auto id = SpiffeId::parse(text);
  if (id && !id->path().empty()) return id->uri();
  return tl::unexpected(fmt::format("\"{}\" is no SPIFFE ID of a workload", text));
}

// What goes into a certificate, and there into OpenSSL's syntax.
Value<std::string> parse_name(std::string_view text) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == ':';
  };
  if (!text.empty() && text.size() <= 253 && std::ranges::all_of(text, allowed)) {
    return std::string(text);
  }
  return tl::unexpected(fmt::format(
      "\"{}\" is no host name in lower case, nor an address: write \"ca.example.org\"", text));
}

class ConfigReader : private policy::TomlReader {
 public:
  ConfigReader(std::string_view base, std::string_view file) : TomlReader(base, file) {}

  tl::expected<Config, LoadError> read(std::string_view text) {
    toml::table top;
    if (!parse_text(text, &top) || !read_top(top)) return tl::unexpected(take_error());
    return std::move(config_);
  }

 private:
  bool read_top(const toml::table &top);
  bool read_listen(const toml::table &table, std::vector<std::string> *out);
  bool read_lifetimes(const toml::table &top);
  bool read_upstream(const toml::table &top);
  bool read_web(const toml::table &table, std::string_view where, WebSettings *out);
  bool read_bundle_endpoint(const toml::table &top);
  bool read_est(const toml::table &top);
  bool read_federations(const toml::table &top);
  bool read_federation(const toml::table &table);
  bool read_limits(const toml::table &top);
  bool take_lifetime(const toml::table &table, std::string_view key, std::time_t shortest,
                     std::time_t longest, std::time_t *out) {
    return take(table, key, out,
                [&](std::string_view text) { return parse_lifetime(text, shortest, longest); });
  }

  Config config_;
};

bool ConfigReader::read_top(const toml::table &top) {
  const toml::table *log = nullptr;
  const bool good = known_keys(top, "the file",
                               {"trust_domain", "listen", "advertise", "state", "database", "seal",
                                "svid", "rotation", "upstream", "bundle_endpoint", "est",
                                "federation", "limits", "log"}) &&
                    need(top, "the file", "trust_domain", "trust_domain = \"example.org\"") &&
                    take(top, "trust_domain", &config_.trust_domain, policy::parse_trust_domain) &&
                    read_listen(top, &config_.listen) &&
                    take(top, "advertise", &config_.advertise, parse_advertise) &&
                    take_path(top, "state", &config_.state) &&
                    take(top, "database", &config_.database) &&
                    take_path(top, "seal", &config_.seal) && read_lifetimes(top) &&
                    read_upstream(top) && read_bundle_endpoint(top) && read_est(top) &&
                    read_federations(top) && read_limits(top) && take(top, "log", &log);
  if (!good) return false;
  if (top.contains("database") && !config_.database.starts_with("postgresql://")) {
    return fail(top.get("database")->source(),
                "database must be a PostgreSQL, postgresql://USER@HOST/NAME; without it the state "
                "is in SQLite, in the folder state");
  }
  if (config_.seal.empty()) config_.seal = config_.state + "/seal.key";
  config_.rotation.trust_domain = config_.trust_domain;
  config_.rotation.upstream = !config_.upstream.empty();
  return log == nullptr || (known_keys(*log, "[log]", {"file"}) &&
                            need(*log, "[log]", "file", "file = \"/var/log/inlay-ca/ca.jsonl\"") &&
                            take_path(*log, "file", &config_.log_file));
}

bool ConfigReader::read_listen(const toml::table &table, std::vector<std::string> *out) {
  if (!table.contains("listen")) return true;
  out->clear();
  return each_string(table, "listen", "listen names no address: write listen = \"0.0.0.0:8443\"",
                     [&](const std::string &text, const auto &at) {
                       auto address = parse_listen(text);
                       if (!address) return fail(at, address.error());
                       out->push_back(std::move(*address));
                       return true;
                     });
}

bool ConfigReader::read_lifetimes(const toml::table &top) {
  const toml::table *svid = nullptr, *rotation = nullptr;
  if (!take(top, "svid", &svid) || !take(top, "rotation", &rotation)) return false;
  if (svid != nullptr &&
      !(known_keys(*svid, "[svid]", {"ttl", "node_ttl", "jwt_ttl"}) &&
        take_lifetime(*svid, "ttl", 60, 7 * kDay, &config_.svid_lifetime) &&
        take_lifetime(*svid, "node_ttl", 300, 90 * kDay, &config_.node_lifetime) &&
        take_lifetime(*svid, "jwt_ttl", 60, kDay, &config_.jwt_lifetime))) {
    return false;
  }
  if (rotation == nullptr) return true;
  RotationSettings &out = config_.rotation;
  if (!known_keys(*rotation, "[rotation]",
                  {"root_ttl", "intermediate_ttl", "jwt_ttl", "overlap"}) ||
      !take_lifetime(*rotation, "root_ttl", 30 * kDay, 7300 * kDay, &out.root_lifetime) ||
      !take_lifetime(*rotation, "intermediate_ttl", 7 * kDay, 3650 * kDay,
                     &out.intermediate_lifetime) ||
      !take_lifetime(*rotation, "jwt_ttl", 7 * kDay, 3650 * kDay, &out.jwt_lifetime) ||
      !take_lifetime(*rotation, "overlap", 60, 30 * kDay, &out.overlap)) {
    return false;
  }
  if (out.overlap >= out.jwt_lifetime / 3) {
    return fail(rotation->source(),
                "overlap must be less than a third of jwt_ttl: a new key is made after two thirds "
                "of the old one's life, and waits that long");
  }
  return true;
}

bool ConfigReader::read_upstream(const toml::table &top) {
  const toml::table *upstream = nullptr;
  if (!take(top, "upstream", &upstream)) return false;
  if (upstream == nullptr) return true;
  constexpr std::string_view kWhere = "[upstream]";
  return known_keys(*upstream, kWhere, {"certificate", "key", "bundle"}) &&
         need(*upstream, kWhere, "certificate", "certificate = \"intermediate.pem\"") &&
         need(*upstream, kWhere, "key", "key = \"intermediate-key.pem\"") &&
         need(*upstream, kWhere, "bundle", "bundle = \"upstream.pem\"") &&
         take_path(*upstream, "certificate", &config_.upstream.certificate) &&
         take_path(*upstream, "key", &config_.upstream.key) &&
         take_path(*upstream, "bundle", &config_.upstream.bundle);
}

bool ConfigReader::read_web(const toml::table &table, std::string_view where, WebSettings *out) {
  if (!need(table, where, "listen", "listen = \"0.0.0.0:8444\"") ||
      !read_listen(table, &out->listen) || !take_path(table, "certificate", &out->certificate) ||
      !take_path(table, "key", &out->key)) {
    return false;
  }
  if (out->certificate.empty() == out->key.empty()) return true;
  return fail(table.source(), "certificate and key belong together");
}

bool ConfigReader::read_bundle_endpoint(const toml::table &top) {
  const toml::table *table = nullptr;
  if (!take(top, "bundle_endpoint", &table)) return false;
  if (table == nullptr) return true;
  constexpr std::string_view kWhere = "[bundle_endpoint]";
  BundleEndpointSettings &out = config_.bundle_endpoint;
  bool web = false;
  if (!known_keys(*table, kWhere, {"listen", "profile", "certificate", "key", "path"}) ||
      !read_web(*table, kWhere, &out) || !take(*table, "profile", &web, parse_profile) ||
      !take(*table, "path", &out.path, parse_url_path)) {
    return false;
  }
  if (web == !out.certificate.empty()) return true;
  return fail(table->source(),
              web ? "https_web needs a certificate that others' systems know: certificate and key"
                  : "https_spiffe shows the authority's own SVID: no certificate and key");
}

bool ConfigReader::read_est(const toml::table &top) {
  const toml::table *table = nullptr;
  if (!take(top, "est", &table)) return false;
  if (table == nullptr) return true;
  EstSettings &out = config_.est;
  if (!known_keys(*table, "[est]", {"listen", "certificate", "key", "names"}) ||
      !read_web(*table, "[est]", &out) ||
      !each_string(*table, "names", "", [&](const std::string &text, const auto &at) {
        auto name = parse_name(text);
        if (!name) return fail(at, name.error());
        out.names.push_back(std::move(*name));
        return true;
      })) {
    return false;
  }
  if (out.names.empty() != out.certificate.empty()) return true;
  return fail(table->source(),
              out.names.empty()
                  ? "machines judge [est] by its host name: write names = [\"ca.example.org\"] for "
                    "the authority's own SVID, or certificate and key"
                  : "names are for the authority's own SVID: not with certificate and key");
}

bool ConfigReader::read_federation(const toml::table &table) {
  constexpr std::string_view kWhere = "[[federation]]";
  FederationSettings out;
  bool web = false;
  if (!known_keys(table, kWhere,
                  {"trust_domain", "url", "profile", "endpoint_spiffe_id", "bundle", "ca_file"}) ||
      !need(table, kWhere, "trust_domain", "trust_domain = \"partner.test\"") ||
      !need(table, kWhere, "url", "url = \"https://bundle.partner.test\"") ||
      !need(table, kWhere, "profile", "profile = \"https_web\" or \"https_spiffe\"") ||
      !take(table, "trust_domain", &out.trust_domain, policy::parse_trust_domain) ||
      !take(table, "url", &out.url, parse_url) || !take(table, "profile", &web, parse_profile) ||
      !take(table, "endpoint_spiffe_id", &out.endpoint_spiffe_id, parse_workload_id) ||
      !take_path(table, "bundle", &out.bundle) || !take_path(table, "ca_file", &out.ca_file)) {
    return false;
  }
  if (out.trust_domain == config_.trust_domain) {
    return fail(table.source(), "an authority does not federate with itself");
  }
  for (const FederationSettings &other : config_.federations) {
    if (other.trust_domain == out.trust_domain) {
      return fail(table.source(), fmt::format("{} is there twice", out.trust_domain));
    }
  }
  if (web && (!out.endpoint_spiffe_id.empty() || !out.bundle.empty())) {
    return fail(table.source(), "endpoint_spiffe_id and bundle belong to https_spiffe");
  }
  if (!web && !out.ca_file.empty()) return fail(table.source(), "ca_file belongs to https_web");
  if (!web && !need(table, kWhere, "endpoint_spiffe_id",
                    "endpoint_spiffe_id = \"spiffe://partner.test/inlay/ca\"")) {
    return false;
  }
  config_.federations.push_back(std::move(out));
  return true;
}

bool ConfigReader::read_federations(const toml::table &top) {
  return each_table(top, "federation", "trust domains",
                    [&](const toml::table &table) { return read_federation(table); });
}

bool ConfigReader::read_limits(const toml::table &top) {
  const toml::table *limits = nullptr;
  if (!take(top, "limits", &limits)) return false;
  if (limits == nullptr) return true;
  return known_keys(*limits, "[limits]",
                    {"enrolments_per_second", "requests_per_second", "connections",
                     "connections_of_an_address"}) &&
         take(*limits, "enrolments_per_second", kMostRate, &config_.enrolments_per_second) &&
         take(*limits, "requests_per_second", kMostRate, &config_.requests_per_second) &&
         take(*limits, "connections", kMostConnections, &config_.connections) &&
         take(*limits, "connections_of_an_address", kMostConnections,
              &config_.connections_of_an_address);
}

}  // namespace

tl::expected<std::time_t, std::string> parse_lifetime(std::string_view text, std::time_t shortest,
                                                      std::time_t longest) {
  std::time_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  const std::time_t factor = unit == "s"   ? 1
                             : unit == "m" ? 60
                             : unit == "h" ? 3600
                             : unit == "d" ? kDay
                                           : 0;
  if (error != std::errc() || factor == 0 || value < 1 || value > longest / factor ||
      value * factor < shortest) {
    const auto shown = [](std::time_t seconds) {
      return seconds % kDay == 0   ? fmt::format("{}d", seconds / kDay)
             : seconds % 3600 == 0 ? fmt::format("{}h", seconds / 3600)
             : seconds % 60 == 0   ? fmt::format("{}m", seconds / 60)
                                   : fmt::format("{}s", seconds);
    };
    return tl::unexpected(
        fmt::format("\"{}\" is no time: write a whole number and s, m, h or d, from {} to {}", text,
                    shown(shortest), shown(longest)));
  }
  return value * factor;
}

tl::expected<Config, LoadError> parse_config(std::string_view toml, std::string_view base,
                                             std::string_view file) {
  return ConfigReader(base, file).read(toml);
}

tl::expected<Config, LoadError> load_config(const std::string &file) {
  auto read = policy::read_configuration(file);
  if (!read) return tl::unexpected(std::move(read.error()));
  auto config = parse_config(read->text, read->folder, file);
  if (config) config->file = read->path;
  return config;
}

tl::expected<Opened, std::string> open_state(const Config &config) {
  if (::mkdir(config.state.c_str(), 0700) != 0 && errno != EEXIST) {
    return tl::unexpected(
        fmt::format("the folder {} cannot be made: {}", config.state, strerrordesc_np(errno)));
  }
  auto database = config.database.empty() ? open_sqlite(config.state + "/ca.db")
                                          : open_postgres(config.database);
  if (!database) return tl::unexpected(std::move(database.error().message));
  auto store = Store::open(std::move(*database), config.trust_domain);
  if (!store) return tl::unexpected(std::move(store.error().message));
  const auto rows = store->authorities();
  if (!rows) return tl::unexpected(rows.error().message);
  auto seal = Seal::open(config.seal, rows->empty());
  if (!seal) return tl::unexpected(std::move(seal.error()));
  return Opened{std::move(*store), std::move(*seal), rows->empty()};
}

}  // namespace inlay::identity::ca
