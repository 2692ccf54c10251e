// The authority's configuration: TOML in, a Config or one complaint out. Every key is in
// inlay-ca(8).
#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/database.h"
#include "identity/ca/rotation.h"
#include "identity/ca/signer.h"
#include "identity/ca/web_settings.h"
#include "policy/load.h"

namespace inlay::identity::ca {

struct Config {
  std::string file;  // absolute
  std::string trust_domain;
  std::vector<std::string> listen{"0.0.0.0:8443"};
  std::string advertise;  // "https://ca.example.org:8443": what machines are told; "" = unknown
  std::string state = "/var/lib/inlay-ca";
  std::string database;               // PostgreSQL's address; "" = SQLite, STATE/ca.db
  std::string seal;                   // absolute
  std::time_t svid_lifetime = 3600;   // seconds, as all of these
  std::time_t node_lifetime = 86400;  // of the SVIDs of nodes
  std::time_t jwt_lifetime = 300;     // of JWT-SVIDs
  // Of one address, enrolments and rejoinings; of one node, all else. Ten times as many at once
  // after a quiet while.
  std::uint32_t enrolments_per_second = 20;
  std::uint32_t requests_per_second = 200;
  std::uint32_t connections = 4096;
  std::uint32_t connections_of_an_address = 64;
  RotationSettings rotation;
  UpstreamFiles upstream;
  BundleEndpointSettings bundle_endpoint;
  EstSettings est;
  std::vector<FederationSettings> federations;
  std::string log_file;  // absolute; "" = standard error
};

tl::expected<Config, policy::LoadError> parse_config(std::string_view toml, std::string_view base,
                                                     std::string_view file);
// Refuses a file that others may change (policy/trusted_file.h).
tl::expected<Config, policy::LoadError> load_config(const std::string &file);

// What a configuration leads to; the error is one line. Makes the folder of the state, 0700, and
// the seal where they are not there; the seal only with a database that holds no keys yet.
struct Opened {
  Store store;
  Seal seal;
  bool is_new = false;  // it holds no keys yet
};
tl::expected<Opened, std::string> open_state(const Config &config);

// "90s", "15m", "12h", "30d".
tl::expected<std::time_t, std::string> parse_lifetime(std::string_view text, std::time_t shortest,
                                                      std::time_t longest);

}  // namespace inlay::identity::ca
